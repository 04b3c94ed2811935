"""Bodies, worlds, episodes and stations: all that runs beside a robot. Knows numpy and MuJoCo, no torch, no Django."""
