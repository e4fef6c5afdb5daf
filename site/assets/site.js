"use strict";

// What all scripts share: the state in the address, the theme, pickers, and files to save.
const pruneboard = (() => {
  const listeners = [];
  const parameters = () => new URLSearchParams(location.search);

  const state = {
    get: (key, otherwise = "") => parameters().get(key) ?? otherwise,
    all: (key) => parameters().getAll(key),
    set(changes) {
      const next = parameters();
      for (const [key, value] of Object.entries(changes)) {
        if (value === null || value === "") next.delete(key);
        else next.set(key, value);
      }
      const query = next.toString();
      history.replaceState(null, "", `${location.pathname}${query ? `?${query}` : ""}${location.hash}`);
      for (const listen of listeners) listen(Object.keys(changes));
    },
    listen: (listener) => listeners.push(listener),
  };

  const element = (name, attributes = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(attributes)) {
      if (value !== null && value !== undefined && value !== false) made.setAttribute(key, value === true ? "" : value);
    }
    made.append(...children);
    return made;
  };

  const json = (id) => JSON.parse(document.getElementById(id).textContent);
  const percent = (hundredths, decimals = 2) => (hundredths / 100).toFixed(decimals);

  // A control stands for a key of the state; its first or selected value is what holds without one in the address.
  const fallback = (control) =>
    control.matches("fieldset") ? control.querySelector("input").value
    : control.matches("select") ? ([...control.options].find((o) => o.defaultSelected) ?? control.options[0])?.value ?? ""
    : "";
  const show = (control) => {
    const wanted = state.get(control.dataset.key, fallback(control));
    if (!control.matches("fieldset")) control.value = wanted;
    else for (const input of control.querySelectorAll("input")) input.checked = input.value === wanted;
  };
  const bind = (control) => {
    show(control);
    const event = control.matches("input[type=search]") ? "input" : "change";
    control.addEventListener(event, () => {
      const value = control.matches("fieldset") ? control.querySelector("input:checked").value : control.value;
      state.set({ [control.dataset.key]: value === fallback(control) ? null : value });
    });
    state.listen(() => show(control));
    control.hidden = false;
  };

  const themes = ["auto", "light", "dark"];
  const themeSwitch = () => {
    const button = document.querySelector("[data-theme-switch]");
    const root = document.documentElement;
    const label = () => (button.querySelector("span").textContent = root.dataset.theme ?? "auto");
    label();
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = themes[(themes.indexOf(root.dataset.theme ?? "auto") + 1) % themes.length];
      if (next === "auto") delete root.dataset.theme;
      else root.dataset.theme = next;
      try {
        localStorage.setItem("pruneboard-theme", next);
      } catch {
        // It then holds for this page only.
      }
      label();
      for (const listen of listeners) listen(["theme"]);
    });
  };

  const isDark = () => {
    const chosen = document.documentElement.dataset.theme;
    return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  };
  const colour = (name) => {
    const probe = element("span", { hidden: true });
    probe.style.color = `var(${name})`;
    document.body.append(probe);
    const found = getComputedStyle(probe).color;
    probe.remove();
    return found;
  };

  const cells = (table) =>
    [...table.rows]
      .filter((row) => !row.hidden)
      .map((row) => [...row.cells].filter((cell) => !cell.hidden).map((cell) => cell.innerText.replace(/\s+/g, " ").trim()));
  const asCsv = (lines) => lines.map((line) => line.map((c) => (/[",\n]/.test(c) ? `"${c.replaceAll('"', '""')}"` : c)).join(",")).join("\n");
  const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$", "±": "$\\pm$", "≠": "$\\ne$", "→": "$\\to$" };
  const asLatex = (lines) => {
    const escape = (text) => text.replace(/[\\~^–−±≠→]|[&%$#_{}]/g, (c) => special[c] ?? `\\${c}`);
    const [head, ...body] = lines.map((line) => `${line.map(escape).join(" & ")} \\\\`);
    const columns = `l${"r".repeat(Math.max(0, lines[0].length - 1))}`;
    return [`\\begin{tabular}{${columns}}`, "\\hline", head, "\\hline", ...body, "\\hline", "\\end{tabular}"].join("\n");
  };
  const download = (name, content) => {
    const address = URL.createObjectURL(content);
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };
  const saving = (holder) => {
    const within = holder.closest("section") ?? document;
    holder.hidden = false;
    holder.addEventListener("click", (event) => {
      const format = event.target.closest("button")?.dataset.format;
      if (!format) return;
      const lines = cells(within.querySelector("table[data-ranking], table[data-saved]"));
      if (format === "csv") download(`${holder.dataset.save}.csv`, new Blob([`${asCsv(lines)}\n`], { type: "text/csv" }));
      else download(`${holder.dataset.save}.tex`, new Blob([`${asLatex(lines)}\n`], { type: "application/x-tex" }));
    });
  };

  const start = () => {
    themeSwitch();
    for (const control of document.querySelectorAll("[data-toolbar] [data-key], fieldset[data-key]")) {
      if (!control.closest("[data-finder], [data-rows]")) bind(control);
    }
    for (const form of document.querySelectorAll("form")) {
      if (!form.matches("[data-finder], [data-rows]")) form.hidden = false;
      form.addEventListener("submit", (event) => event.preventDefault());
    }
    document.querySelector("[data-reset]")?.addEventListener("click", () => {
      state.set(Object.fromEntries([...parameters().keys()].map((key) => [key, null])));
    });
    for (const holder of document.querySelectorAll("[data-save]")) saving(holder);
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
      for (const listen of listeners) listen(["theme"]);
    });
  };

  return { state, element, json, percent, fallback, isDark, colour, download, start };
})();

pruneboard.start();
