"use strict";

// Draws the embedded charts, follows the light or dark preference, and sorts tables.
(() => {
  const dark = window.matchMedia("(prefers-color-scheme: dark)");
  const drawn = new Map();

  const config = (colours, width) => {
    const style = getComputedStyle(document.documentElement);
    const of = (name) => style.getPropertyValue(name).trim();
    const text = { labelColor: of("--quiet"), titleColor: of("--quiet"), labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: "normal" };
    return {
      background: of("--page"),
      font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
      view: { stroke: null },
      axis: { ...text, domainColor: of("--quiet"), tickColor: of("--quiet"), gridColor: of("--line"), labelOverlap: true },
      legend: { ...text, labelColor: of("--text"), columns: Math.max(1, Math.floor(width / 185)), rowPadding: 3, columnPadding: 14 },
      range: { category: colours },
    };
  };

  const draw = async (plot) => {
    const { spec, colours, file } = JSON.parse(document.getElementById(plot.dataset.chart).textContent);
    const result = await window.vegaEmbed(plot, spec, {
      actions: { export: { svg: true, png: true }, source: false, compiled: false, editor: false },
      // The interpreter evaluates expressions without eval, which the page's policy forbids.
      ast: true,
      config: config(dark.matches ? colours.dark : colours.light, plot.clientWidth),
      downloadFileName: file,
      mode: "vega-lite",
      renderer: "svg",
      tooltip: { theme: dark.matches ? "dark" : "light" },
    });
    drawn.get(plot)?.finalize();
    drawn.set(plot, result);
  };

  const pick = (picker) => {
    const shots = Number(picker.querySelector("input:checked").value);
    for (const plot of picker.closest("section").querySelectorAll(".plot")) {
      const view = drawn.get(plot)?.view;
      if (view && "shots" in view.getState().signals) view.signal("shots", shots).runAsync();
    }
  };

  const drawAll = async () => {
    for (const plot of document.querySelectorAll(".plot")) await draw(plot);
    for (const picker of document.querySelectorAll("[data-picker]")) pick(picker);
    document.documentElement.dataset.charts = "drawn";
  };

  const value = (row, column) => {
    const text = row.cells[column].textContent.trim();
    const number = parseFloat(text);
    return Number.isNaN(number) ? text : number;
  };

  const sortable = (table) => {
    const body = table.tBodies[0];
    const original = [...body.rows];
    const heads = [...table.tHead.rows[0].cells];
    heads.forEach((head, column) => {
      const button = document.createElement("button");
      button.type = "button";
      button.append(...head.childNodes);
      head.append(button);
      button.addEventListener("click", () => {
        const next = head.getAttribute("aria-sort") === "ascending" ? "descending" : "ascending";
        for (const other of heads) other.removeAttribute("aria-sort");
        head.setAttribute("aria-sort", next);
        const sign = next === "ascending" ? 1 : -1;
        const compare = (a, b) => {
          const [x, y] = [value(a, column), value(b, column)];
          if (typeof x !== typeof y) return typeof x === "number" ? -1 : 1;
          return sign * (typeof x === "number" ? x - y : x.localeCompare(y));
        };
        body.append(...[...original].sort(compare));
      });
    });
  };

  for (const table of document.querySelectorAll("table[data-sortable]")) sortable(table);
  for (const picker of document.querySelectorAll("[data-picker]")) {
    picker.hidden = false;
    picker.addEventListener("change", () => pick(picker));
  }
  dark.addEventListener("change", drawAll);
  drawAll();
})();
