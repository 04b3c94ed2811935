// Loaded before the first paint (no module), so that a chosen theme never flashes. No choice means the system's own.
(() => {
  let chosen = null;
  try { chosen = localStorage.getItem("theme"); } catch { /* storage may be forbidden: the system's theme stays */ }
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
