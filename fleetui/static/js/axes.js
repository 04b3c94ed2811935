// What a person drives a body by: of each axis its words, its keys and its place on a gamepad. Whatever else a body
// names is a joint. Knows neither page nor station.

// keys: those that push it down (-1) and up (1); ends: what that does, in words; mirrored: up is on the left
const AXES = {
  x: { ends: ["Left", "Right"], keys: [["ArrowLeft", "a"], ["ArrowRight", "d"]], pad: "left stick" },
  y: { ends: ["Towards you", "Away"], keys: [["ArrowDown", "s"], ["ArrowUp", "w"]], pad: "left stick" },
  z: { ends: ["Down", "Up"], keys: [["f", "PageDown"], ["r", "PageUp"]], pad: "right stick" },
  yaw: { ends: ["Turn right", "Turn left"], keys: [["e"], ["q"]], pad: "right stick", mirrored: true },
  pitch: { ends: ["Pitch −", "Pitch +"], keys: [["k"], ["i"]], pad: "d-pad" },
  roll: { ends: ["Roll −", "Roll +"], keys: [["j"], ["l"]], pad: "d-pad" },
  gripper: { ends: ["Close", "Open"], keys: [["g"], ["t"]], pad: "bumpers or triggers" },
};
const JOINT = { ends: ["−", "+"], keys: [["["], ["]"]] };
export const NEXT_JOINT = "v";

const WORDS = { ArrowLeft: "←", ArrowRight: "→", ArrowUp: "↑", ArrowDown: "↓", PageUp: "Page Up",
  PageDown: "Page Down" };
export const keyWord = (key) => WORDS[key] ?? key.toUpperCase();

export const isJoint = (axis) => !Object.hasOwn(AXES, axis);
// As pages write it: LeRobot's joints are called "shoulder_pan.pos".
export const axisWord = (axis) => axis.replace(/\.pos$/, "").replaceAll("_", " ");
export const axisInfo = (axis) => isJoint(axis) ? JOINT : AXES[axis];

// [axis, -1 or 1] that a key pushes on a body with these axes, or null; `joint` is the selected one.
export function pushOf(key, axes, joint) {
  for (const axis of axes) {
    if (isJoint(axis) && axis !== joint) continue;
    const way = axisInfo(axis).keys.findIndex((keys) => keys.includes(key));
    if (way >= 0) return [axis, way ? 1 : -1];
  }
  return null;
}

// What the list of keys says of a body with these axes: [keys, words] a line.
export function keyLines(axes) {
  if (axes.length === 0) return [];
  const lines = axes.filter((axis) => !isJoint(axis)).map((axis) => {
    const { keys: [less, more], ends } = AXES[axis];
    const pairs = less.map((key, index) => [key, more[index]]);
    return [pairs.flat(), `${ends.join(", ")}${axis === "x" || axis === "y" ? "; or press on the picture" : ""}`];
  });
  const joints = axes.filter(isJoint);
  if (joints.length) lines.push([["[", "]"], `The selected joint, back and forth: ${joints.map(axisWord).join(", ")}`]);
  if (joints.length > 1) lines.push([[NEXT_JOINT], "Select the next joint"]);
  return lines;
}

// What a gamepad does to a body with these axes, in one line.
export function padLine(axes) {
  const parts = new Map();
  for (const axis of axes) {
    if (!isJoint(axis)) parts.set(AXES[axis].pad, [...parts.get(AXES[axis].pad) ?? [], axis]);
  }
  return [...parts].map(([part, moved]) => `${part}: ${moved.join(" and ")}`).concat("button A: hand back").join("; ");
}

// What to do, for whoever is in control.
export function driveWords({ drive, device, teleoperator }) {
  if (device) return `It is driven by its own device (${teleoperator}). Without a hand on that it holds still.`;
  const flat = drive.includes("x") || drive.includes("y");
  const picture = flat ? "press on the picture in the direction it shall go, " : "";
  const buttons = drive.some((axis) => axis !== "x" && axis !== "y") ? "hold a button below, " : "";
  return `Hold a key (${flat ? "arrows or W A S D; " : ""}? lists them all), ${picture}${buttons}or use a gamepad. `
    + "When you let go, it holds still.";
}
