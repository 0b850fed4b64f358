// What pages do beside htmx: quick keys and their list, copying, and forms that must not be lost.
"use strict";

(() => {
  const rows = () => [...document.querySelectorAll("[data-row]")].filter((row) => row.checkVisibility());
  const dialog = document.getElementById("keys");
  const chosen = document.getElementById("keys-on");
  const KEPT = "quick-keys";

  for (const button of document.querySelectorAll("[data-opens]")) button.hidden = false;
  const showCopies = () => {
    for (const button of document.querySelectorAll(".copy[hidden]")) button.hidden = !navigator.clipboard;
  };
  showCopies();
  // On a phone the contents of the manual would stand before its page.
  if (matchMedia("(max-width: 60rem)").matches) document.querySelector(".manual > nav details")?.removeAttribute("open");

  // What is wider than its place is scrolled by the arrow keys, so Tab has to reach it (Safari passes it by).
  const reachWide = () => {
    for (const box of document.querySelectorAll(".prose pre, .prose table")) {
      if (box.scrollWidth > box.clientWidth) box.tabIndex = 0;
      else box.removeAttribute("tabindex");
    }
  };
  reachWide();
  addEventListener("resize", reachWide);

  // A key of one letter can be switched off (WCAG 2.2, 2.1.4).
  const areOn = () => {
    try { return localStorage.getItem(KEPT) !== "off"; } catch { return true; }
  };
  if (chosen) {
    chosen.checked = areOn();
    chosen.addEventListener("change", () => {
      try { localStorage.setItem(KEPT, chosen.checked ? "on" : "off"); } catch { /* this time only */ }
    });
  }

  function open() {
    if (dialog && !dialog.open) dialog.showModal();
  }

  function step(by) {
    const all = rows();
    if (!all.length) return;
    const now = all.findIndex((row) => row.contains(document.activeElement));
    const next = all[Math.max(0, Math.min(all.length - 1, now + by))];
    next.querySelector("[role=button], a")?.focus();
    next.scrollIntoView({ block: "nearest" });
  }

  function turn(by) {
    const links = [...document.querySelectorAll(".images a")];
    const now = links.findIndex((link) => link.hasAttribute("aria-current"));
    links[now + by]?.click();
  }

  const keys = {
    "?": open,
    "/": () => document.querySelector("input[type=search]")?.focus(),
    g: () => location.assign("/"),
    j: () => step(1),
    k: () => step(-1),
    n: () => turn(1),
    p: () => turn(-1),
    v: () => document.querySelector("#preview canvas:not([hidden])")?.focus(),
    c: () => document.querySelector("textarea[name=comment]")?.focus(),
  };

  document.addEventListener("keydown", (event) => {
    const at = event.target;
    if (event.ctrlKey || event.metaKey || event.altKey || event.defaultPrevented) return;
    if (at.closest?.("input, textarea, select, dialog, [contenteditable]") || !areOn()) return;
    const act = keys[event.key];
    if (!act) return;
    event.preventDefault();
    act();
  });

  document.addEventListener("click", async (event) => {
    const button = event.target.closest?.("[data-opens], [data-closes], [data-copies]");
    if (!button) return;
    const { opens, closes, copies, done } = button.dataset;
    if (opens) open();
    if (closes) document.getElementById(closes).close();
    if (copies) {
      await navigator.clipboard.writeText(document.getElementById(copies).innerText);
      button.textContent = done;
    }
  });

  // A page that follows its study must not take away what somebody is writing.
  document.addEventListener("input", (event) => {
    const form = event.target.closest?.("form[data-kept]");
    if (form) form.dataset.dirty = "yes";
  });
  document.addEventListener("submit", (event) => {
    delete event.target.dataset.dirty;
  }, true);
  document.addEventListener("htmx:before:request", (event) => {
    if (event.target.id === "progress" && document.querySelector("form[data-dirty]")) event.preventDefault();
    // nor the steps that somebody reads or has opened
    if (event.target.id === "missing" && event.target.contains(document.activeElement)) event.preventDefault();
    // nor the strip, while somebody reads all of it
    if (event.target.id === "alerts" && document.querySelector("#alerts details[open]")) event.preventDefault();
  });
  document.addEventListener("htmx:after:swap", showCopies);
})();
