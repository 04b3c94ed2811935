"""Camera pictures of MuJoCo worlds without a screen: EGL, then OSMesa (CGL on macOS), then a drawn top view.

All worlds of a thread share one OpenGL context, and all worlds of one model share one scene, so that sixteen stations
cost hardly more memory than one. Shadows and reflections are off: they cost a software renderer ten times the frame
rate.
"""

import atexit
import os
import subprocess
import sys
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import mujoco
import numpy as np
from PIL import Image, ImageDraw

PACKAGES = "libegl1 libgl1-mesa-dri"  # what brings camera pictures to a Debian without OpenGL


@cache
def renderer_name() -> str:
    """The best way to render here. FLEETUI_RENDERER forces one.

    Each way is tried in a child process: a missing or broken OpenGL library can kill the process that loads it, and
    PyOpenGL can be bound to one library only, once a process.
    """
    ways = ("cgl",) if sys.platform == "darwin" else ("egl", "osmesa")
    forced = os.environ.get("FLEETUI_RENDERER")
    if forced:
        if forced not in (*ways, "drawn"):
            raise ValueError(f"FLEETUI_RENDERER is {forced!r}; it must be one of {', '.join((*ways, 'drawn'))}.")
        return forced
    for way in ways:
        environment = {key: value for key, value in os.environ.items() if key not in ("MUJOCO_GL", "PYOPENGL_PLATFORM")}
        try:
            trial = subprocess.run(
                [sys.executable, "-m", __name__, way],
                cwd=Path(__file__).parents[2],
                env=environment,
                capture_output=True,
                timeout=60,
            )
        except (OSError, subprocess.TimeoutExpired):
            continue
        if trial.returncode == 0:
            return way
    return "drawn"


_of_thread = threading.local()


def render(
    model: mujoco.MjModel, data: mujoco.MjData, camera: str | mujoco.MjvCamera, width: int, height: int
) -> np.ndarray:
    """A picture, uint8 [H, W, 3], by OpenGL; call it only where renderer_name() is not "drawn"."""
    return _scene_of(model, renderer_name()).render(data, camera, width, height)


def _scene_of(model: mujoco.MjModel, way: str) -> "_Scene":
    if not hasattr(_of_thread, "scenes"):
        _of_thread.context = _make_context(way)
        _of_thread.context.make_current()
        _of_thread.scenes = {}
        if threading.current_thread() is threading.main_thread():
            atexit.register(_free_scenes, _of_thread.context, _of_thread.scenes)
    # What else draws in this thread, such as an environment's own camera, may have made another one current.
    _of_thread.context.make_current()
    # The scene holds the model, so its id stays unique.
    scenes: dict[int, _Scene] = _of_thread.scenes
    if id(model) not in scenes:
        scenes[id(model)] = _Scene(model)
    return scenes[id(model)]


def forget(model: mujoco.MjModel) -> None:
    """Free what this thread holds for rendering a model that is no longer used."""
    scene = getattr(_of_thread, "scenes", {}).pop(id(model), None)
    if scene is not None:
        scene.context.free()


def _make_context(way: str) -> Any:
    # Not by mujoco.Renderer: its choice is fixed by MUJOCO_GL when mujoco is first imported, by whomever.
    if way == "egl":
        from mujoco.egl import GLContext
    elif way == "osmesa":
        from mujoco.osmesa import GLContext
    else:
        from mujoco.cgl import GLContext
    return GLContext(640, 480)


def _free_scenes(context: Any, scenes: dict[int, "_Scene"]) -> None:
    """Before the interpreter takes OpenGL away: freeing a scene later crashes."""
    context.make_current()
    for scene in scenes.values():
        scene.context.free()
    scenes.clear()
    context.free()


class _Scene:
    def __init__(self, model: mujoco.MjModel):
        self.model = model
        self.scene = mujoco.MjvScene(model, maxgeom=1000)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION, mujoco.mjtRndFlag.mjRND_HAZE):
            self.scene.flags[flag] = 0
        self.option = mujoco.MjvOption()
        self.named_camera = mujoco.MjvCamera()
        # Without a buffer for shadows, which nobody draws: some 17 MB for each model.
        shadows, model.vis.quality.shadowsize = model.vis.quality.shadowsize, 0
        self.context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        model.vis.quality.shadowsize = shadows

    def render(self, data: mujoco.MjData, camera: str | mujoco.MjvCamera, width: int, height: int) -> np.ndarray:
        if isinstance(camera, str):
            self.named_camera.type = mujoco.mjtCamera.mjCAMERA_FIXED
            self.named_camera.fixedcamid = self.model.camera(camera).id
            camera = self.named_camera
        if width > self.context.offWidth or height > self.context.offHeight:
            mujoco.mjr_resizeOffscreen(
                max(width, self.context.offWidth), max(height, self.context.offHeight), self.context
            )
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        mujoco.mjv_updateScene(self.model, data, self.option, None, camera, mujoco.mjtCatBit.mjCAT_ALL, self.scene)
        rectangle = mujoco.MjrRect(0, 0, width, height)
        mujoco.mjr_render(rectangle, self.scene, self.context)
        picture = np.empty((height, width, 3), dtype=np.uint8)
        mujoco.mjr_readPixels(picture, None, rectangle, self.context)
        return np.ascontiguousarray(picture[::-1])  # OpenGL counts rows from below


def draw_top_view(
    polygons: Iterable[tuple[np.ndarray, tuple[int, ...]]],
    bounds: tuple[float, float, float, float],
    width: int,
    height: int,
) -> np.ndarray:
    """Draws (points [K, 2] in metres, colour) from above, the first lowest. bounds = x0, y0, x1, y1 that must fit."""
    x0, y0, x1, y1 = bounds
    scale = min(width / (x1 - x0), height / (y1 - y0))
    picture = Image.new("RGB", (width, height), (86, 94, 102))
    draw = ImageDraw.Draw(picture)
    for points, colour in polygons:
        pixels = (np.asarray(points) - ((x0 + x1) / 2, (y0 + y1) / 2)) * (scale, -scale) + (width / 2, height / 2)
        draw.polygon([tuple(point) for point in pixels], fill=colour)
    return np.array(picture)


def circle(x: float, y: float, radius: float) -> np.ndarray:
    """A circle as a polygon, [24, 2]."""
    angles = np.linspace(0, 2 * np.pi, 24, endpoint=False)
    return np.stack([x + radius * np.cos(angles), y + radius * np.sin(angles)], axis=1)


_TRIAL = """<mujoco><worldbody><light pos="0 0 2"/><camera name="c" pos="0 0 2"/>
<geom type="sphere" size=".3" rgba="1 0 0 1"/></worldbody></mujoco>"""

if __name__ == "__main__":  # the child process of renderer_name()
    trial_model = mujoco.MjModel.from_xml_string(_TRIAL)
    trial_data = mujoco.MjData(trial_model)
    mujoco.mj_forward(trial_model, trial_data)
    trial_picture = _scene_of(trial_model, sys.argv[1]).render(trial_data, "c", 32, 24)
    sys.exit(0 if trial_picture.std() > 1 else 1)
