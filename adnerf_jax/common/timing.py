"""Rates and windows that frames, sound and speech features share."""

FPS = 25.0  # video frames a second
SAMPLE_RATE = 16_000  # samples of sound a second, one channel
FEATURE_RATE = 50  # speech features a second: two for each frame
WINDOW = 16  # speech features in the window of a frame: frame i has the features 2i − 8 … 2i + 7
# The audio attention of frame i reads the windows of the frames i − 4 … i + 3 (published code).
FRAMES_BEFORE, FRAMES_AFTER = 4, 3
NEIGHBOURS = FRAMES_BEFORE + 1 + FRAMES_AFTER
