"use strict";

// The theme of all pages. It is set before the first paint, so that a chosen one does not flash.
(() => {
  const root = document.documentElement;
  const themes = ["auto", "light", "dark"];
  const now = () => root.dataset.theme ?? "auto";
  const set = (theme) => {
    if (theme === "auto") delete root.dataset.theme;
    else root.dataset.theme = theme;
  };
  const tell = () => document.dispatchEvent(new Event("themechange"));

  try {
    const chosen = localStorage.getItem("pruneboard-theme");
    if (themes.includes(chosen)) set(chosen);
  } catch {
    // A browser that keeps nothing follows the system.
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.querySelector("[data-theme-switch]");
    const label = () => (button.querySelector("span").textContent = now());
    label();
    button.hidden = false;
    button.addEventListener("click", () => {
      set(themes[(themes.indexOf(now()) + 1) % themes.length]);
      try {
        localStorage.setItem("pruneboard-theme", now());
      } catch {
        // It then holds for this page only.
      }
      label();
      tell();
    });
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", tell);

  // Paper is light, whatever the screen is.
  let before = null;
  addEventListener("beforeprint", () => {
    before ??= now();
    set("light");
  });
  addEventListener("afterprint", () => {
    if (before !== null) set(before);
    before = null;
  });
})();
