// Dash's dropdown puts the tab stop on an input that is hidden from screen readers (aria-hidden); its button gets it
// here.
new MutationObserver(() => {
  for (const hidden of document.querySelectorAll(".dash-dropdown-focus-target")) {
    const button = hidden.parentElement.querySelector("button.dash-dropdown");
    if (hidden.tabIndex !== -1) hidden.tabIndex = -1;
    if (button && button.tabIndex !== 0) button.tabIndex = 0;
  }
}).observe(document.documentElement,
  { subtree: true, childList: true, attributes: true, attributeFilter: ["tabindex"] });
