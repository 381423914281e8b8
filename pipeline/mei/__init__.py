"""Most exciting inputs: stimuli that an encoding model predicts to drive a unit best."""
