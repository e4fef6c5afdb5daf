"use strict";

// What scripts share: the state in the address, colours, pickers, and files to save.
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
  const nearest = (values, wanted) => values.reduce((best, value) => (best === undefined || Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best), undefined);
  // Whether a criterion passes the filters of the toolbar.
  const fits = ({ name, family, needs }) => {
    const wanted = { family: state.get("family"), needs: state.get("needs") };
    return (!wanted.family || family === wanted.family) && (!wanted.needs || needs === wanted.needs) && name.toLowerCase().includes(state.get("search").toLowerCase());
  };
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

  const download = (name, content) => {
    const address = URL.createObjectURL(content);
    element("a", { href: address, download: name }).click();
    setTimeout(() => URL.revokeObjectURL(address), 1000);
  };

  const start = () => {
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
    document.addEventListener("themechange", () => {
      for (const listen of listeners) listen(["theme"]);
    });
  };

  return { state, element, json, percent, nearest, fits, fallback, isDark, colour, download, start };
})();

pruneboard.start();
