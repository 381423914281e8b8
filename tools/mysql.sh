#!/usr/bin/env bash
# A private MySQL server for tests and trials, on loopback only. Needs no root; Debian on x86_64 or aarch64.
#
#   tools/mysql.sh start     download once, start, print the environment lines that make geniculate use it
#   tools/mysql.sh status    the same lines where it runs; exit status 1 where it does not
#   tools/mysql.sh url       host:port:user:password, for GENICULATE_TEST_MYSQL
#   tools/mysql.sh stop      stop it; its data stay
#
# Everything lies in GENICULATE_MYSQL_HOME (default ~/.cache/geniculate-mysql); the port is GENICULATE_MYSQL_PORT
# (default 33088). The packages come from the mirror that this system's apt already uses, release "sid": Debian's stable
# release has MariaDB only.
set -euo pipefail

home=${GENICULATE_MYSQL_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/geniculate-mysql}
port=${GENICULATE_MYSQL_PORT:-33088}
user=geniculate
root=$home/packages/root
data=$home/data
case $(uname -m) in
    x86_64) library=$root/usr/lib/x86_64-linux-gnu; loader=$library/ld-linux-x86-64.so.2 ;;
    aarch64) library=$root/usr/lib/aarch64-linux-gnu; loader=$library/ld-linux-aarch64.so.1 ;;
    *) echo "tools/mysql.sh knows x86_64 and aarch64, not $(uname -m)" >&2; exit 2 ;;
esac

fail() { echo "tools/mysql.sh: $*" >&2; exit 1; }

download() {
    [ -x "$root/usr/sbin/mysqld" ] && return
    command -v apt-get >/dev/null || fail "apt-get is missing: use a MySQL 8 server of your own (GENICULATE_TEST_MYSQL)"
    local apt=$home/packages mirror package
    rm -rf "$apt"
    mkdir -p "$apt"/etc/apt/{apt.conf.d,preferences.d} "$apt"/var/lib/apt/lists/partial \
        "$apt"/var/cache/apt/archives/partial "$apt"/var/lib/dpkg "$apt"/unpacked
    : >"$apt/var/lib/dpkg/status"
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | grep '/debian/*$' | head -n 1) || true
    # apt tells nothing before its first update, as in a fresh container: then its sources are read.
    [ -n "$mirror" ] || mirror=$(cat /etc/apt/sources.list /etc/apt/sources.list.d/*.list /etc/apt/sources.list.d/*.sources \
        2>/dev/null | grep -v '^ *#' | grep -oE 'https?://[^ ]+/debian/?( |$)' | head -n 1 | tr -d ' ') || true
    [ -n "$mirror" ] || fail "apt names no Debian mirror: use a MySQL 8 server of your own (GENICULATE_TEST_MYSQL)"
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $mirror sid main" >"$apt/etc/apt/sources.list"
    cat >"$apt/apt.conf" <<CONF
Dir "$apt/";
Dir::State::status "$apt/var/lib/dpkg/status";
Dir::Etc::trustedparts "/etc/apt/trusted.gpg.d/";
APT::Architecture "$(dpkg --print-architecture)";
APT::Sandbox::User "$(id -un)";
Acquire::Check-Valid-Until "false";
Acquire::Retries "3";
CONF
    export APT_CONFIG=$apt/apt.conf
    apt-get -qq update >"$home/apt.log" 2>&1 || { tail -n 5 "$home/apt.log" >&2; fail "apt-get update failed"; }
    apt-get -qq install --download-only -y --no-install-recommends mysql-server-core >>"$home/apt.log" 2>&1 ||
        { tail -n 5 "$home/apt.log" >&2; fail "the download of mysql-server-core failed"; }
    unset APT_CONFIG
    for package in "$apt"/var/cache/apt/archives/*.deb; do dpkg -x "$package" "$apt/unpacked"; done
    rm -rf "$apt"/var/cache/apt/archives/*.deb "$apt"/var/lib/apt/lists
    mv "$apt/unpacked" "$root" # last: a download cut short is not taken for a whole one
}

mysqld() {
    local as_root=()
    [ "$(id -u)" -ne 0 ] || as_root=(--user=root)
    exec "$loader" --library-path "$library:$library/mysql/private:$root/usr/lib/mysql/private" \
        "$root/usr/sbin/mysqld" --no-defaults --lc-messages-dir="$root/usr/share/mysql" \
        --character-sets-dir="$root/usr/share/mysql/charsets" --datadir="$data" --log-error="$home/error.log" \
        "${as_root[@]}" "$@"
}

process() { # the server's process id, where it runs
    local pid
    pid=$(cat "$home/pid" 2>/dev/null) && grep -qs mysqld "/proc/$pid/cmdline" && echo "$pid"
}

answers() { (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }

start() {
    mkdir -p "$home"
    chmod 700 "$home"
    exec 9>"$home/lock"
    flock 9
    if process >/dev/null; then return; fi
    ! answers "$port" || fail "port $port is taken by another program: set GENICULATE_MYSQL_PORT"
    download
    [ -s "$home/password" ] || (umask 077; od -An -N16 -tx1 /dev/urandom | tr -d ' \n' >"$home/password")
    if [ ! -e "$home/initialised" ]; then
        rm -rf "$data"
        : >"$home/error.log"
        (mysqld --initialize-insecure 9>&-) || { tail -n 5 "$home/error.log" >&2; fail "MySQL could not make its data folder"; }
        : >"$home/initialised"
    fi
    (umask 077; cat >"$home/users.sql" <<SQL
CREATE USER IF NOT EXISTS '$user'@'%';
ALTER USER '$user'@'%' IDENTIFIED BY '$(cat "$home/password")';
GRANT ALL ON *.* TO '$user'@'%' WITH GRANT OPTION;
ALTER USER 'root'@'localhost' IDENTIFIED BY '$(cat "$home/password")';
SQL
    )
    echo "$port" >"$home/port"
    : >"$home/error.log"
    (mysqld --socket="$home/socket" --port="$port" --bind-address=127.0.0.1 --mysqlx=OFF --pid-file="$home/pid" \
        --secure-file-priv=NULL --init-file="$home/users.sql" --character-set-server=utf8mb4 \
        --collation-server=utf8mb4_bin --max-allowed-packet=256M --disable-log-bin \
        </dev/null >/dev/null 2>&1 9>&-) &
    for _ in $(seq 300); do
        if process >/dev/null && answers "$port"; then return; fi
        kill -0 $! 2>/dev/null || break
        sleep 0.2
    done
    tail -n 10 "$home/error.log" >&2
    fail "MySQL did not start; its log is $home/error.log"
}

stop() {
    local pid
    pid=$(process) || { echo "MySQL is not running"; return; }
    kill "$pid"
    for _ in $(seq 300); do
        process >/dev/null || { echo "MySQL is stopped"; return; }
        sleep 0.2
    done
    fail "MySQL (process $pid) did not stop within 60 s"
}

environment() {
    process >/dev/null || { echo "MySQL is not running: tools/mysql.sh start" >&2; exit 1; }
    printf 'export DJ_HOST=127.0.0.1\nexport DJ_PORT=%s\nexport DJ_USER=%s\nexport DJ_PASS=%s\n' \
        "$(cat "$home/port")" "$user" "$(cat "$home/password")"
}

url() {
    process >/dev/null || exit 1
    echo "127.0.0.1:$(cat "$home/port"):$user:$(cat "$home/password")"
}

case ${1:-} in
    start) start; environment ;;
    status) environment ;;
    url) url ;;
    stop) stop ;;
    *) sed -n '2,11s/^# \{0,1\}//p' "$0"; exit 2 ;;
esac
