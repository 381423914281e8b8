# One image for workers and Jupyter; docker-compose.yml says how they run.
FROM python:3.11-slim

RUN useradd --create-home --uid 1000 geniculate \
    && install --directory --owner=geniculate --group=geniculate /data

WORKDIR /opt/geniculate
COPY pyproject.toml constraints.txt README.md LICENSE ./
COPY pipeline pipeline
COPY schemas schemas
COPY populate populate
RUN pip install --no-cache-dir --constraint constraints.txt '.[jupyter]'

USER geniculate
WORKDIR /home/geniculate
ENV GENICULATE_HOME=/data
VOLUME /data
CMD ["geniculate", "--help"]
