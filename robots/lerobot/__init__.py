"""LeRobot datasets (v3.0) on disk, by pyarrow and PyAV: LeRobot itself is not needed, nor pandas, nor torch.

    layout.py      where what lies, how columns are called, and what is said of a dataset that is wrong
    pictures.py    single pictures as JPEG and PNG
    videos.py      pictures to MP4 and back
    statistics.py  what LeRobot keeps of each feature, an episode and a dataset
    writing.py     episodes -> a folder
    reading.py     a folder -> episodes, of ours or anybody's, of v3.0 or v2.1
    bodies.py      the body that a dataset tells of
    checking.py    what is wrong with a folder, and the mend

What a dataset is on disk, for people: docs/datasets.md.
"""
