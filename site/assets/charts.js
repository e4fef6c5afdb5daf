"use strict";

// Draws the charts that come into view, with what is chosen, and draws them again when that changes.
(() => {
  const { state, element, json, nearest } = pruneboard;
  const drawn = new Map();
  const sections = new Map();
  const templates = json("templates");

  const data = (name) => {
    if (!sections.has(name)) sections.set(name, json(`data-${name}`));
    return sections.get(name);
  };
  const fraction = (hundredths) => (hundredths === null || hundredths === undefined ? null : hundredths / 10000);
  const shotsOf = (numbers) => (numbers.shots.includes(state.get("shots", "all")) ? state.get("shots", "all") : numbers.shots[0]);
  const words = (key) => (key === "all" ? "all numbers of images" : `${key} image${key === "1" ? "" : "s"} per class`);
  const label = (criterion) => (criterion.twins.length ? `${criterion.name} (+${criterion.twins.length})` : criterion.name);
  const hue = (criterion) => (pruneboard.isDark() ? criterion.dark : criterion.light);

  // Without a choice, the best of each family is in colour.
  const preset = (numbers) => {
    const seen = new Set();
    return numbers.criteria.filter((c) => fits(numbers, c) && c.ranked && !seen.has(c.family) && seen.add(c.family)).map((c) => c.slug);
  };
  const chosen = (numbers) => {
    const text = state.get("show", null);
    const slugs = text === null ? preset(numbers) : text.split(".");
    return numbers.criteria.filter((c) => fits(numbers, c) && (slugs.includes(c.slug) || text === "all"));
  };
  // Of criteria with the same results one is drawn, wherever the filters let any of them pass.
  const fits = (numbers, criterion) =>
    criterion.leads && (pruneboard.fits(criterion) || numbers.criteria.some((c) => criterion.twins.includes(c.name) && pruneboard.fits(c)));

  const fill = (value, names) => {
    if (typeof value === "string" && value.startsWith("@")) return value.slice(1) in names ? names[value.slice(1)] : value;
    if (Array.isArray(value)) {
      if (value.length === 1 && typeof value[0] === "string" && value[0].startsWith("@")) return names[value[0].slice(1)];
      return value.map((entry) => fill(entry, names));
    }
    if (value === null || typeof value !== "object") return value;
    return Object.fromEntries(Object.entries(value).map(([key, entry]) => [key, fill(entry, names)]));
  };

  const interval = (low, high) => (low === null || low === undefined ? "one seed" : `${(low / 100).toFixed(2)} to ${(high / 100).toFixed(2)} %`);
  const share = (value) => (value === null || value === undefined ? "unknown" : `${(value / 100).toFixed(1)} %`);

  const dashes = [[1, 0], [7, 3], [2, 2], [9, 3, 2, 3]];
  const linesOf = (numbers, record) => {
    const shown = chosen(numbers);
    const all = numbers.criteria.flatMap((c, i) => (fits(numbers, c) ? record(i, c).map((point) => ({ name: label(c), ...point })) : []));
    const names = new Set(shown.map(label));
    // Dashes tell the members of a family apart, in the order of the ranking.
    const dash = (c) => dashes[shown.filter((other) => other.family === c.family).indexOf(c) % dashes.length];
    return {
      names: { names: shown.map(label), colours: shown.map(hue), dashes: shown.map(dash) },
      datasets: { all, drawn: all.filter((p) => names.has(p.name)), context: all.filter((p) => !names.has(p.name)) },
    };
  };

  // The address of the rows behind a mark.
  const rowsOf = (numbers, criterion, cell) => {
    const given = Object.entries(cell).filter(([, value]) => value !== "all");
    return `../rows.html?${new URLSearchParams([["suite", numbers.suite], ["criterion", criterion.name], ["granularity", numbers.granularity], ...given])}`;
  };

  // Where all lines stay high, the axis need not begin at zero.
  const bottom = (points) => {
    const least = Math.min(1, ...points.map((p) => p.low ?? p.y));
    return least < 0.4 ? 0 : Math.floor(10 * least - 0.5) / 10;
  };

  const axes = {
    rate: ["units removed", () => null],
    params: ["parameters removed", (curves, i, j) => curves.params?.[i]?.[j]],
    macs: ["MACs removed", (curves, i, j) => curves.macs?.[i]?.[j]],
  };

  // Labels stand right or left of their points where they hit no other label, or not at all.
  const spread = (wanted, all, width) => {
    const extent = (key, scale) => {
      const values = all.map((p) => scale(p[key]));
      return [Math.min(...values), Math.max(...values) - Math.min(...values) || 1];
    };
    const [x0, dx] = extent("x", Math.log);
    const [y0, dy] = extent("y", Number);
    const place = (p) => [((Math.log(p.x) - x0) / dx) * (width - 110), (1 - (p.y - y0) / dy) * 290];
    const taken = all.map((p) => { const [x, y] = place(p); return [x - 5, x + 5, y - 5, y + 5]; });
    const sides = [[], []];
    for (const p of wanted) {
      const [x, y] = place(p);
      const long = 6.4 * p.name.length;
      const boxes = [[x + 7, x + 9 + long, y - 13, y + 1], [x - 9 - long, x - 7, y - 13, y + 1]];
      const free = (box) => box[0] > -40 && box[1] < width - 50 && taken.every((t) => box[1] < t[0] || box[0] > t[1] || box[3] < t[2] || box[2] > t[3]);
      const side = boxes.findIndex(free);
      if (side < 0) continue;
      sides[side].push(p);
      taken.push(boxes[side]);
    }
    return sides;
  };

  const kinds = {
    curve(plot) {
      const numbers = data(plot.dataset.section);
      const network = numbers.networks[Number(plot.dataset.model)];
      const curves = network.curves[shotsOf(numbers)];
      const axis = state.get("axis", "rate") in axes ? state.get("axis", "rate") : "rate";
      const [title, left] = axes[axis];
      const made = linesOf(numbers, (i, c) =>
        numbers.rates.flatMap((rate, j) => {
          const y = fraction(curves.top1[i]?.[j]);
          const kept = left(curves, i, j);
          const x = axis === "rate" ? rate : kept === null || kept === undefined ? null : 1 - kept / 10000;
          if (y === null || x === null) return [];
          const ends = [curves.low?.[i]?.[j], curves.high?.[i]?.[j]];
          return [{ rate, x, y, rows: rowsOf(numbers, c, { model: network.name, shots: shotsOf(numbers), rate }), low: fraction(ends[0]), high: fraction(ends[1]), interval: interval(...ends), params: share(curves.params?.[i]?.[j]), macs: share(curves.macs?.[i]?.[j]) }];
        }),
      );
      made.datasets.threshold = [{ y: 0.95 * fraction(network.unpruned) }];
      return { ...made, names: { ...made.names, x: title, y: "top-1 accuracy", bottom: bottom(made.datasets.all) }, says: `${title}, ${words(shotsOf(numbers))}` };
    },
    shots(plot) {
      const numbers = data(plot.dataset.section);
      const ticks = numbers.shots.filter((key) => key !== "all");
      const made = linesOf(numbers, (i, c) =>
        ticks.flatMap((key) => {
          const columns = numbers.ranking[key];
          if (columns.a_pr[i] === null) return [];
          const ends = [columns.a_pr_low[i], columns.a_pr_high[i]];
          return [{ x: Number(key), y: fraction(columns.a_pr[i]), rows: rowsOf(numbers, c, { shots: key }), low: fraction(ends[0]), high: fraction(ends[1]), interval: interval(...ends) }];
        }),
      );
      return { ...made, names: { ...made.names, ticks: ticks.map(Number), x: "reference images per class", y: "A_PR" }, says: "" };
    },
    cost(plot) {
      const numbers = data(plot.dataset.section);
      const columns = numbers.ranking[shotsOf(numbers)];
      const shown = new Set(chosen(numbers).map((c) => c.slug));
      const all = numbers.criteria
        .map((c, i) => ({ name: label(c), slug: c.slug, drawn: fits(numbers, c), rows: rowsOf(numbers, c, { shots: shotsOf(numbers) }), colour: hue(c), x: numbers.costs.seconds[i], y: fraction(columns.a_pr[i]), interval: interval(columns.a_pr_low[i], columns.a_pr_high[i]) }))
        .filter((p) => p.drawn && p.x > 0 && p.y !== null)
        .sort((a, b) => a.x - b.x || b.y - a.y);
      let best = -1;
      const front = all.filter((p) => p.y > best && ((best = p.y), true));
      const wanted = all.filter((p) => front.includes(p) || shown.has(p.slug));
      const [right, left] = spread(wanted, all, plot.clientWidth);
      const says = plot.closest("figure").querySelector("[data-front]");
      says.hidden = !front.length;
      says.textContent = `On the dashed line, from cheap to dear: ${front.map((p) => p.name).join(", ")}.`;
      return { names: { x: "seconds of scoring", y: "A_PR" }, datasets: { all, front, right, left }, says: words(shotsOf(numbers)) };
    },
    heat(plot) {
      const parts = [...document.querySelectorAll("section[data-granularity]")].map((s) => data(s.dataset.granularity));
      const all = [];
      for (const numbers of parts) {
        for (const network of numbers.networks) {
          const lines = network.curves[shotsOf(numbers)].top1;
          const means = lines.map((line) => (line.includes(null) || !line.length ? null : line.reduce((a, b) => a + b, 0) / line.length));
          const best = Math.max(...means.filter((value) => value !== null));
          const column = `${network.name}, ${numbers.granularity}`;
          numbers.criteria.forEach((c, i) => {
            if (means[i] !== null && pruneboard.fits(c)) all.push({ name: c.name, column, rows: rowsOf(numbers, c, { model: network.name, shots: shotsOf(numbers) }), value: fraction(means[i]), behind: fraction(best - means[i]) });
          });
        }
      }
      const most = Math.max(0.01, ...all.map((p) => p.behind));
      const mean = new Map();
      for (const p of all) mean.set(p.name, [...(mean.get(p.name) ?? []), p.behind]);
      const key = (name) => mean.get(name).reduce((a, b) => a + b, 0) / mean.get(name).length;
      all.sort((a, b) => key(a.name) - key(b.name) || a.name.localeCompare(b.name));
      for (const p of all) p.dark = p.behind < 0.5 * most;
      const columns = new Set(all.map((p) => p.column)).size;
      // Titles of columns stand upright where they would hit each other.
      const angle = (plot.clientWidth - 190) / columns < 150 ? -90 : 0;
      return { width: 240 + 190 * columns, config: { axisTop: { labelAngle: angle } }, names: { least: 0, most, height: 21 * mean.size }, datasets: { all }, says: "" };
    },
    layers(plot) {
      const numbers = data(plot.dataset.section);
      const network = numbers.networks[Number(plot.dataset.model)];
      const { names, units, rates, removed } = network.layers;
      const select = document.querySelector("select[data-key=rate]");
      const shown = rates.indexOf(nearest(rates, Number(state.get("rate", pruneboard.fallback(select)))));
      const all = numbers.criteria.flatMap((c, i) =>
        fits(numbers, c) && removed[i] ? names.map((layer, k) => ({ name: label(c), layer, rows: rowsOf(numbers, c, { model: network.name, shots: numbers.default_shots, rate: rates[shown] }), units: units[k], removed: removed[i][shown][k] / 100 })) : [],
      );
      return { names: { height: 19 * new Set(all.map((p) => p.name)).size, x: `layers, from input to output, at ${Number((100 * rates[shown]).toFixed(2))} % removed` }, datasets: { all }, says: "" };
    },
    ranks(plot) {
      const numbers = data(plot.dataset.section);
      const { criteria, ranks, cliques } = numbers.diagram;
      const known = new Map(numbers.criteria.map((c) => [c.name, c]));
      const shown = criteria.flatMap((name, i) => (known.get(name).leads ? [{ name: label(known.get(name)), rank: ranks[i], rows: rowsOf(numbers, known.get(name), { show: "wins" }), colour: hue(known.get(name)), plain: name }] : []));
      const order = shown.map((p) => p.name);
      const last = Math.max(...ranks);
      const step = (last - Math.min(...ranks)) / 28;
      const bars = cliques
        .map((clique) => shown.filter((p) => clique.includes(p.plain)))
        .filter((found) => found.length > 1)
        .map((found, i) => ({ first: found[0].name, last: found.at(-1).name, place: last + step * (2 + i) }));
      return { names: { x: "average rank (1 is best)", order, height: 21 * order.length }, datasets: { all: shown, cliques: bars }, says: "" };
    },
    protocols(plot) {
      const group = json(`protocols-${plot.dataset.section}`);
      const name = group.criteria[Number(plot.dataset.model)];
      const tones = pruneboard.isDark() ? ["#c3c7cc", "#63b8f0", "#35cb9c"] : ["#5f6368", "#0067a8", "#00805c"];
      const titles = { one_shot: "one shot", iterative: "step by step", iterative_finetune: "with fine-tuning" };
      const all = group.protocols.flatMap((p) => {
        const i = p.criteria.indexOf(name);
        const key = p.shots.includes(state.get("shots", "all")) ? state.get("shots", "all") : "all";
        const curves = p.curves[key];
        if (i < 0) return [];
        return group.rates.flatMap((rate, j) => {
          const ends = [curves.low?.[i]?.[j], curves.high?.[i]?.[j]];
          const y = fraction(curves.top1[i]?.[j]);
          return y === null ? [] : [{ name: titles[p.protocol] ?? p.protocol, rate, x: rate, y, low: fraction(ends[0]), high: fraction(ends[1]), interval: interval(...ends), params: share(curves.params?.[i]?.[j]), macs: share(curves.macs?.[i]?.[j]) }];
        });
      });
      const names = [...new Set(all.map((p) => p.name))];
      const dashes = [[2, 2], [6, 3], [1, 0]].slice(3 - names.length);
      return { template: "curve", names: { names, colours: tones.slice(0, names.length), dashes, x: "units removed", y: "top-1 accuracy", bottom: bottom(all) }, datasets: { all, drawn: all, context: [], threshold: [] }, says: "" };
    },
  };

  const config = (width) => {
    const [text, quiet, line, page] = ["--text", "--quiet", "--line", "--page"].map(pruneboard.colour);
    const axis = { labelColor: quiet, titleColor: quiet, labelFontSize: 11.5, titleFontSize: 12, titleFontWeight: "normal" };
    return {
      background: page,
      font: "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
      view: { stroke: null },
      // Each chart is named as a whole, and its numbers stand in tables.
      mark: { aria: false },
      axis: { ...axis, domainColor: line, tickColor: line, gridColor: line, labelOverlap: true, titlePadding: 8 },
      legend: { ...axis, labelColor: text, labelLimit: 190, columns: Math.max(1, Math.floor(width / 200)), symbolLimit: 12, rowPadding: 3, columnPadding: 16 },
    };
  };

  const saving = (plot) => {
    const figure = plot.closest("figure");
    if (figure.querySelector(".save")) return;
    const save = async (kind) => {
      const view = drawn.get(plot)?.view;
      if (!view) return;
      const content = kind === "svg"
        ? new Blob([await view.toSVG()], { type: "image/svg+xml" })
        : await new Promise((done) => view.toCanvas(2).then((canvas) => canvas.toBlob(done, "image/png")));
      pruneboard.download(`pruneboard-${plot.id}.${kind}`, content);
    };
    const buttons = ["svg", "png"].map((kind) => {
      const button = element("button", { type: "button", "aria-label": `Save ${plot.dataset.label} as ${kind.toUpperCase()}` }, kind.toUpperCase());
      button.addEventListener("click", () => save(kind));
      return button;
    });
    figure.prepend(element("span", { class: "save" }, ...buttons));
  };

  const draw = async (plot) => {
    const made = kinds[plot.dataset.kind](plot);
    if (!made.datasets.all.length) {
      // The table says that nothing passes the filters.
      drawn.get(plot)?.finalize();
      drawn.set(plot, null);
      plot.replaceChildren();
      return;
    }
    const names = { ...made.names, text: pruneboard.colour("--text"), page: pruneboard.colour("--page"), description: [plot.dataset.label, made.says].filter(Boolean).join(", ") };
    const spec = fill(templates[made.template ?? plot.dataset.kind], names);
    if (plot.dataset.kind === "protocols") spec.height = 200;
    plot.style.maxWidth = made.width ? `${made.width}px` : "";
    const result = await vegaEmbed(plot, { ...spec, datasets: made.datasets }, {
      actions: false,
      // The interpreter evaluates expressions without eval, which the page's policy forbids.
      ast: true,
      config: { ...config(plot.clientWidth), ...made.config },
      defaultStyle: false,
      // An empty layer is no reason for a warning.
      logLevel: 1,
      formatLocale: { decimal: ".", thousands: ",", grouping: [3], currency: ["$", ""], percent: " %" },
      mode: "vega-lite",
      renderer: "svg",
      tooltip: { theme: pruneboard.isDark() ? "dark" : "light", disableDefaultStyle: true },
    });
    // Voronoi cells, which find the nearest mark, hold it as their datum.
    const behind = (item) => (item?.datum?.datum ?? item?.datum)?.rows;
    result.view.addEventListener("click", (event, item) => {
      if (behind(item)) location.href = behind(item);
    });
    drawn.get(plot)?.finalize();
    drawn.set(plot, result);
    saving(plot);
    plot.dataset.drawn = "yes";
  };

  const waiting = new Set();
  let busy = false;
  const work = async () => {
    if (busy) return;
    busy = true;
    while (waiting.size) {
      const [plot] = waiting;
      waiting.delete(plot);
      await draw(plot);
    }
    busy = false;
    document.documentElement.dataset.charts = "drawn";
  };
  const ask = (plots) => {
    for (const plot of plots) waiting.add(plot);
    delete document.documentElement.dataset.charts;
    work();
  };

  const legend = (holder) => {
    const numbers = data(holder.dataset.legend);
    const chips = holder.querySelector(".chips");
    const toggle = (slug) => {
      const now = chosen(numbers).map((c) => c.slug);
      const next = now.includes(slug) ? now.filter((s) => s !== slug) : [...now, slug];
      state.set({ show: next.join(".") || "none" });
    };
    for (const [title, value] of [["all", "all"], ["best of each family", null]]) {
      const button = element("button", { type: "button", class: "plain" }, title);
      button.addEventListener("click", () => state.set({ show: value }));
      chips.append(button);
    }
    for (const criterion of numbers.criteria.filter((c) => c.leads)) {
      const chip = element("button", { type: "button", class: "chip", "data-slug": criterion.slug }, label(criterion));
      if (criterion.twins.length) chip.title = `same results: ${criterion.twins.join(", ")}`;
      chip.addEventListener("click", () => toggle(criterion.slug));
      chips.append(chip);
    }
    const known = new Map(numbers.criteria.map((c) => [c.slug, c]));
    const mark = () => {
      const shown = new Set(chosen(numbers).map((c) => c.slug));
      for (const chip of chips.querySelectorAll(".chip")) {
        const criterion = known.get(chip.dataset.slug);
        chip.hidden = !fits(numbers, criterion);
        chip.setAttribute("aria-pressed", String(shown.has(criterion.slug)));
        chip.style.setProperty("--line-colour", hue(criterion));
      }
    };
    mark();
    state.listen(mark);
    holder.hidden = false;
  };

  const plots = [...document.querySelectorAll(".plot")];
  for (const holder of document.querySelectorAll("[data-legend]")) legend(holder);
  const seen = new IntersectionObserver((entries) => {
    const fresh = entries.filter((entry) => entry.isIntersecting).map((entry) => entry.target);
    for (const plot of fresh) seen.unobserve(plot);
    if (fresh.length) ask(fresh);
  }, { rootMargin: "300px" });
  for (const plot of plots) seen.observe(plot);
  state.listen((keys) => {
    if (keys.some((key) => ["theme", "shots", "rate", "axis", "show", "family", "needs", "search"].includes(key))) ask([...drawn.keys()]);
  });
  // Paper holds all charts, in the light colours that the page has by then.
  addEventListener("beforeprint", () => ask(plots));
  addEventListener("afterprint", () => ask(plots));
  if (!plots.length) document.documentElement.dataset.charts = "drawn";
})();
