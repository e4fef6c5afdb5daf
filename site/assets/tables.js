"use strict";

// Rankings: sorted and filtered by DataTables, with the numbers of the chosen shots and rate.
(() => {
  const { state, element, json, percent, nearest, fits } = pruneboard;
  const plain = { paging: false, info: false, autoWidth: false, order: [], layout: { topStart: null, topEnd: null, bottomStart: null, bottomEnd: null } };

  const link = (cell, change) => {
    const anchor = cell.querySelector("a");
    if (!anchor) return;
    const [path, query] = anchor.getAttribute("href").split("?");
    const next = new URLSearchParams(query);
    for (const [key, value] of Object.entries(change)) {
      if (value === null) next.delete(key);
      else next.set(key, value);
    }
    anchor.setAttribute("href", `${path}?${next}`);
  };

  const write = (cell, value, decimals, change, ends) => {
    if (!cell) return;
    const holder = cell.querySelector("a") ?? cell;
    holder.textContent = value === null || value === undefined ? "–" : percent(value, decimals);
    cell.dataset.order = value ?? "";
    link(cell, change);
    if (ends) writeEnds(cell.querySelector("[data-ends]"), ...ends, decimals);
  };
  const writeEnds = (holder, low, high, decimals) => {
    const end = (name, value) => element("span", { "data-part": name }, percent(value, decimals));
    holder.replaceChildren(...(low === null || low === undefined ? [] : [end("low", low), " to ", end("high", high)]));
  };

  const ranking = (table) => {
    const name = table.dataset.ranking;
    const data = json(`data-${name}`);
    const section = table.closest("section");
    const heads = [...table.tHead.rows[0].cells];
    const indexes = (selector) => heads.flatMap((head, i) => (head.matches(selector) ? [i] : []));
    const groups = heads.map((head) => head.dataset.in?.split(" "));
    const rows = [...table.tBodies[0].rows];
    const index = new Map(data.criteria.map((criterion, i) => [criterion.name, i]));
    // What is sorted by is the number that begins a cell.
    for (const row of rows) for (const cell of row.cells) {
      const number = parseFloat(cell.textContent.replace(/,/g, ""));
      if (cell.matches(".number") && !cell.hasAttribute("data-order")) cell.dataset.order = Number.isNaN(number) ? "" : number;
    }
    // Cells of hidden columns leave the page, and have to be found later all the same.
    const cellsOf = new Map(rows.map((row) => [row, Object.fromEntries([...row.cells].filter((cell) => cell.dataset.cell).map((cell) => [cell.dataset.cell, cell]))]));
    const grid = new DataTable(table, {
      ...plain,
      columnDefs: [
        { targets: indexes(".number"), type: "num" },
        // The first click brings the best to the top.
        { targets: indexes("[data-best=high]"), orderSequence: ["desc", "asc"] },
        { targets: indexes(":not([data-best=high])"), orderSequence: ["asc", "desc"] },
      ],
      language: { emptyTable: "No criterion fits the filters above.", zeroRecords: "No criterion fits the filters above." },
    });

    const fill = () => {
      const shots = state.get("shots", "all") in data.ranking ? state.get("shots", "all") : data.shots[0];
      const select = document.querySelector("select[data-key=rate]");
      const rate = Number(state.get("rate", pruneboard.fallback(select)));
      const at = data.rates.findIndex((value) => Math.abs(value - rate) < 1e-9);
      const [columns, curves] = [data.ranking[shots], data.at[shots]];
      const ends = columns.a_pr_low.concat(columns.a_pr_high, columns.a_pr).filter((value) => value !== null);
      const [low, high] = [Math.min(...ends), Math.max(...ends)];
      const place = (value) => (4 + (92 * (value - low)) / Math.max(1, high - low)).toFixed(2);
      const change = { shots: shots === "all" ? null : shots };
      for (const row of rows) {
        const i = index.get(row.dataset.criterion);
        const cell = (key) => cellsOf.get(row)[key];
        const rank = columns.rank[i];
        const [first, last] = [columns.rank_low[i], columns.rank_high[i]];
        const shown = element("span", { "data-value": rank ?? "", "data-low": first ?? rank, "data-high": last ?? rank }, rank === null ? "–" : first === null || first === last ? String(rank) : `${first}–${last}`);
        cell("rank").firstElementChild.replaceChildren(shown);
        link(cell("rank"), change);
        cell("rank").dataset.order = rank ?? 1e6;
        write(cell("a_pr"), columns.a_pr[i], 2, change);
        for (const [key, decimals] of [["wins", 0], ["top_pr", 1]]) write(cell(key), columns[key][i], decimals, change, [columns[`${key}_low`][i], columns[`${key}_high`][i]]);
        write(cell("top1"), curves.top1[i]?.[at], 2, { ...change, rate: data.rates[at] }, [curves.low?.[i]?.[at], curves.high?.[i]?.[at]]);
        for (const key of ["params", "macs"]) write(cell(key), curves[key]?.[i]?.[at], 1, { ...change, rate: data.rates[at] });
        for (const key of ["params_kept", "macs_kept"]) write(cell(key), columns[key][i], 1, change);
        const interval = cell("interval");
        const [from, to, mean] = [columns.a_pr_low[i], columns.a_pr_high[i], columns.a_pr[i]];
        interval.dataset.order = from === null ? "" : to - from;
        link(interval, change);
        const holder = interval.querySelector("a");
        if (from === null) holder.textContent = "one seed";
        else writeEnds(holder, from, to, 2);
        if (mean !== null) {
          interval.querySelector("path").setAttribute("d", `M${place(from ?? mean)} 5H${place(to ?? mean)}`);
          interval.querySelector("circle").setAttribute("cx", place(mean));
        }
      }
      const recorded = data.networks.find((network) => network.layers)?.layers.rates ?? [];
      const words = (value) => `${Number((100 * value).toFixed(2))} %`;
      const says = { rate: words(rate), layers: words(nearest(recorded, rate) ?? rate), shots: shots === "all" ? "all numbers of images" : `${shots} image${shots === "1" ? "" : "s"} per class` };
      for (const [key, text] of Object.entries(says)) for (const span of section.querySelectorAll(`[data-says=${key}]`)) span.textContent = text;
      grid.rows().invalidate("dom");
    };

    const filter = () => {
      grid.search.fixed("toolbar", (text, values, number) => fits(data.criteria[index.get(rows[number].dataset.criterion)]));
    };

    const arrange = () => {
      const chosen = state.get("columns", "overview");
      const known = groups.some((group) => group?.includes(chosen)) ? chosen : "overview";
      heads.forEach((head, i) => grid.column(i).visible(!groups[i] || groups[i].includes(known), false));
      const [column, direction] = state.get("sort").split("-");
      const wanted = column !== "" && direction && Number(column) < heads.length ? [[Number(column), direction]] : [[0, "asc"]];
      if (String(grid.order()) !== String(wanted)) grid.order(wanted);
    };

    const redraw = () => {
      fill();
      filter();
      arrange();
      grid.draw(false);
    };
    let quiet = false;
    grid.on("order", () => {
      const [column, direction] = grid.order()[0] ?? [];
      const text = column === undefined || (column === 0 && direction === "asc") ? null : `${column}-${direction}`;
      if (quiet || (text ?? "") === state.get("sort")) return;
      state.set({ sort: text });
    });
    state.listen((keys) => {
      if (keys.includes("theme") || keys.every((key) => ["axis", "show"].includes(key))) return;
      quiet = true;
      redraw();
      quiet = false;
    });
    quiet = true;
    redraw();
    quiet = false;
  };

  for (const table of document.querySelectorAll("table[data-ranking]")) ranking(table);
  document.documentElement.dataset.tables = "ready";
})();
