"""Bodies, worlds, episodes and stations: everything that runs beside a robot. Knows numpy and MuJoCo, no torch, no Django."""
