// The frame follows the site's theme: the person's choice, else the system's, at once when either changes.
(() => {
  const system = matchMedia("(prefers-color-scheme: dark)");
  window.chartsTheme = () => {
    let chosen = null;
    try { chosen = localStorage.getItem("theme"); } catch { /* storage may be forbidden */ }
    const theme = chosen === "dark" || chosen === "light" ? chosen : system.matches ? "dark" : "light";
    document.documentElement.dataset.theme = theme;
    return theme;
  };
  const follow = () => window.dash_clientside?.set_props("theme", { data: window.chartsTheme() });
  window.addEventListener("storage", (event) => { if (event.key === "theme") follow(); });
  system.addEventListener("change", follow);
  window.chartsTheme();
})();
