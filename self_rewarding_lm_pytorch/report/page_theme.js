// Light or dark: as the system has it until the reader says otherwise, and as the reader said from then on.
"use strict";
(() => {
  const KEY = "self-rewarding-page-theme";
  const system = matchMedia("(prefers-color-scheme: dark)");
  const root = document.documentElement;

  function stored(value) { // a page that was opened as a file may have no storage
    try {
      if (value) localStorage.setItem(KEY, value);
      return localStorage.getItem(KEY);
    } catch {
      return null;
    }
  }

  const before = stored();
  if (before === "light" || before === "dark") root.dataset.theme = before;

  function other() {
    const now = root.dataset.theme || (system.matches ? "dark" : "light");
    return now === "dark" ? "light" : "dark";
  }

  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme");
    function say() {
      button.textContent = other() === "dark" ? "Dark" : "Light";
      button.setAttribute("aria-label", "Switch to " + other() + " colours");
    }
    button.addEventListener("click", () => {
      root.dataset.theme = other();
      stored(root.dataset.theme);
      say();
    });
    system.addEventListener("change", say);
    button.hidden = false;
    say();
  });
})();
