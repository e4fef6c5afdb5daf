"use strict";

// Saves tables as data. A column of the page becomes several where its cells hold parts (`data-part`), such as the ends
// of an interval, and tags and remarks beside a value stay out. Rows on other pages of a table are saved as well.
(() => {
  const { download } = pruneboard;
  const tidy = (text) => text.replace(/\s+/g, " ").trim();
  const blank = (text) => (/^[–-]?$/.test(text) ? "" : text);
  // Numbers as other programs read them: no separators between thousands, and a hyphen for minus.
  const number = (text) => (/^[−+-]?[\d,]+(\.\d+)?$/.test(text) ? text.replace(/,/g, "").replace("−", "-").replace("+", "") : blank(text));

  const aside = ".tag, .quiet, svg, abbr, noscript, [data-part]";
  const read = (cell) => {
    if (!(cell instanceof Element)) return [number(String(cell ?? "")), {}];
    const parts = Object.fromEntries([...cell.querySelectorAll("[data-part]")].map((part) => [part.dataset.part, number(tidy(part.textContent))]));
    const given = cell.matches("[data-value]") ? cell : cell.querySelector("[data-value]");
    if (given) {
      const { value, low, high } = given.dataset;
      return [value, { ...(low === undefined ? {} : { low, high }), ...parts }];
    }
    const copy = cell.cloneNode(true);
    for (const found of copy.querySelectorAll(aside)) found.remove();
    // Where a tag is all that a cell holds, it is the value.
    const text = tidy(copy.textContent) || tidy(cell.querySelector(".tag")?.textContent ?? "");
    return [cell.matches(".number") ? number(text) : blank(text), parts];
  };
  const titleOf = (head, part) => {
    const copy = head.cloneNode(true);
    for (const found of copy.querySelectorAll(".dt-column-order, br + .quiet a")) found.remove();
    for (const line of copy.querySelectorAll("br")) line.replaceWith(", ");
    const name = head.dataset.name ?? tidy(copy.textContent);
    // A part with a unit of its own says it.
    const unit = head.dataset.unit && !part?.startsWith("in ") ? [`in ${head.dataset.unit}`] : [];
    return [name, ...(part ? [part] : []), ...unit].join(" ");
  };

  // For each column its head and cells, which DataTables holds where it hides columns or has pages.
  const columnsOf = (table, onlyShown) => {
    const grid = gridOf(table);
    if (!grid) {
      const rows = [...table.tBodies, ...(table.tFoot ? [table.tFoot] : [])].flatMap((part) => [...part.rows]);
      return [...table.tHead.rows[0].cells].map((head, i) => ({ head, cells: rows.map((row) => spread(row)[i]) }));
    }
    const rows = grid.rows({ search: "applied", order: "applied" }).indexes().toArray();
    const shown = (onlyShown ? grid.columns(":visible") : grid.columns()).indexes().toArray();
    return shown.map((i) => ({ head: grid.column(i).header(), cells: rows.map((row) => grid.cell(row, i).node() ?? grid.cell(row, i).data()) }));
  };
  const gridOf = (table) => (typeof DataTable !== "undefined" && DataTable.isDataTable(table) ? new DataTable.Api(table) : null);
  // A cell over several columns stands in the first of them.
  const spread = (row) => [...row.cells].flatMap((cell) => [cell, ...Array(cell.colSpan - 1).fill(null)]);

  const lines = (table, onlyShown) => {
    const columns = columnsOf(table, onlyShown).flatMap(({ head, cells }) => {
      const found = cells.map(read);
      const parts = [...new Set(found.flatMap(([, of]) => Object.keys(of)))];
      const values = found.map(([value]) => value);
      const own = parts.length && values.every((value) => value === "") ? [] : [[titleOf(head), ...values]];
      return [...own, ...parts.map((part) => [titleOf(head, part), ...found.map(([, of]) => of[part] ?? "")])];
    });
    return columns[0].map((_, i) => columns.map((column) => column[i]));
  };

  const asCsv = (rows) => rows.map((row) => row.map((c) => (/[",\n\r]/.test(c) ? `"${c.replaceAll('"', '""')}"` : c)).join(",")).join("\n");
  const special = { "\\": "\\textbackslash{}", "~": "\\textasciitilde{}", "^": "\\textasciicircum{}", "–": "--", "−": "$-$", "±": "$\\pm$", "≠": "$\\ne$", "→": "$\\to$" };
  const asLatex = (rows) => {
    const escape = (text) => text.replace(/[\\~^–−±≠→]|[&%$#_{}]/g, (c) => special[c] ?? `\\${c}`);
    const [head, ...body] = rows.map((row) => `${row.map(escape).join(" & ")} \\\\`);
    const numeric = (i) => rows.slice(1).every((row) => row[i] === "" || !Number.isNaN(Number(row[i])));
    const columns = rows[0].map((_, i) => (numeric(i) ? "r" : "l")).join("");
    return [`\\begin{tabular}{${columns}}`, "\\hline", head, "\\hline", ...body, "\\hline", "\\end{tabular}"].join("\n");
  };

  for (const holder of document.querySelectorAll("[data-save]")) {
    const within = holder.closest("section, [data-saves]") ?? document;
    holder.hidden = false;
    holder.addEventListener("click", (event) => {
      const format = event.target.closest("button")?.dataset.format;
      if (!format) return;
      const table = within.querySelector("table[data-ranking], table[data-saved]") ?? within.querySelector("table");
      // LaTeX is for a page, which holds what is shown; CSV is for programs, which take all columns.
      if (format === "csv") download(`${holder.dataset.save}.csv`, new Blob([`${asCsv(lines(table, false))}\n`], { type: "text/csv" }));
      else download(`${holder.dataset.save}.tex`, new Blob([`${asLatex(lines(table, true))}\n`], { type: "application/x-tex" }));
    });
  }
})();
