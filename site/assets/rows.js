"use strict";

// Shows the rows behind a number: those of one or more criteria, loaded as scripts, narrowed by what is chosen. What
// the number is, is computed again from them.
(() => {
  const { state, element, json } = pruneboard;
  const files = json("row-files");
  const form = document.querySelector("[data-rows]");
  const summary = document.querySelector("[data-summary]");
  const keys = ["granularity", "model", "shots", "rate", "seed"];
  const select = (key) => form.querySelector(`[data-key=${key}]`);
  const loaded = new Map();
  let tables = [];

  const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const median = (values) => {
    const sorted = values.toSorted((a, b) => a - b);
    const half = sorted.length >> 1;
    return sorted.length % 2 ? sorted[half] : sorted.length ? (sorted[half - 1] + sorted[half]) / 2 : null;
  };
  const grouped = (values, key) => {
    const groups = new Map();
    for (const value of values) {
      const name = key(value);
      if (groups.has(name)) groups.get(name).push(value);
      else groups.set(name, [value]);
    }
    return groups;
  };
  const networkOf = (row) => `${row.suite}~${row.model}~${row.granularity}`;
  const count = (n, noun) => `${n.toLocaleString("en")} ${noun}${n === 1 ? "" : "s"}`;

  // Numbers that pool networks of several suites name them; others name their suite.
  const asked = () => {
    const networks = state.all("network").filter((name) => Object.hasOwn(files, name.split("~")[0]));
    const suites = networks.length ? [...new Set(networks.map((name) => name.split("~")[0]))] : [state.get("suite")];
    const known = (name) => suites.some((suite) => own(own(files, suite) ?? {}, name));
    const criteria = [...new Set(state.all("criterion"))].filter(known);
    const among = (key) => (state.get(key) ? new Set(state.get(key).split(".")) : null);
    return { networks: new Set(networks), pooled: networks.length > 1, suites, criteria, seeds: among("seeds"), images: among("images"), wins: state.get("show") === "wins" };
  };
  const needed = (q) =>
    q.suites.flatMap((suite) => {
      const of = own(files, suite) ?? {};
      const rows = (q.wins ? q.criteria.slice(0, 1) : q.criteria).map((name) => own(of, name)).filter(Boolean);
      return q.wins && own(files, suite) ? [...rows, `areas/${suite}`] : rows;
    });

  pruneboard.receive = (file, content) => {
    loaded.set(file, content);
    const q = asked();
    if (needed(q).every((name) => loaded.has(name))) show(q);
  };

  const column = (table, name, i) => (Array.isArray(table[name]) ? table[name][i] : table[name].every);
  const points = (content) =>
    content.points.job.map((job, i) => ({
      suite: content.suite,
      criterion: content.criterion,
      ...Object.fromEntries(Object.keys(content.points).filter((k) => k !== "job").map((k) => [k, column(content.points, k, i)])),
      ...Object.fromEntries(["model", "granularity", "seed", "stale", "key"].map((k) => [k, column(content.jobs, k, job)])),
    }));
  const jobs = (content) => {
    const n = Math.max(...Object.values(content.jobs).map((v) => (Array.isArray(v) ? v.length : 1)));
    return Array.from({ length: n }, (_, i) => ({
      suite: content.suite,
      criterion: content.criterion,
      ...Object.fromEntries(Object.keys(content.jobs).map((k) => [k, column(content.jobs, k, i)])),
    }));
  };

  // A_PR of every criterion in each cell of a suite, which is what wins are counted by.
  const areas = (content) =>
    Object.entries(content.a_pr).flatMap(([criterion, values]) =>
      content.cells.flatMap(([model, granularity, seed, shots], i) =>
        values[i] === null ? [] : [{ suite: content.suite, criterion, model, granularity, seed, shots, a_pr: values[i] / 1e8 }]));

  const options = (key, values, any, wanted = state.get(key)) => {
    const control = select(key);
    control.replaceChildren(...(any ? [element("option", { value: "" }, any)] : []), ...values.map((v) => element("option", { value: v }, v)));
    control.value = values.map(String).includes(wanted) ? wanted : any ? "" : values[0] ?? "";
    return control.value;
  };
  const distinct = (values) => [...new Set(values)].filter((v) => v !== null).sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));

  const percent = (value, decimals = 2) => (value === null || Number.isNaN(value) ? "–" : (100 * value).toFixed(decimals));
  const signed = (value) => `${value < 0 ? "−" : "+"}${percent(Math.abs(value))}`;
  const bytes = (value) => (value === null ? "–" : value < 1e9 ? `${Number((value / 1e6).toPrecision(3))} MB` : `${Number((value / 1e9).toPrecision(3))} GB`);

  // Parameters are an object in JSON; whatever else they are is shown as it is.
  const settings = (text) => {
    try {
      const found = Object.entries(JSON.parse(text));
      return found.map(([name, value]) => `${name} = ${typeof value === "string" ? value : JSON.stringify(value)}`).join(", ") || "–";
    } catch {
      return text;
    }
  };

  const tabulate = (id, heads, lines, caption) => {
    const table = document.getElementById(id);
    const text = DataTable.render.text();
    // Small screens leave out what is the same in all lines.
    const constant = (i) => lines.length > 1 && new Set(lines.map((line) => line[i]).filter((value) => value !== "")).size < 2;
    table.append(element("caption", {}, element("span", {}, caption)));
    return new DataTable(table, {
      data: lines,
      deferRender: true,
      // Whatever rows hold is shown as text; titles, which may be names of criteria, are taken for HTML.
      columns: heads.map(([title, numeric], i) => ({ title: element("span", {}, title).innerHTML, render: text, className: [numeric ? "number" : "reason", ...(constant(i) ? ["constant"] : [])].join(" "), type: numeric ? "num" : "string" })),
      paging: lines.length > 100, pageLength: 100, lengthChange: false, searching: false, info: false, autoWidth: false, order: [],
      layout: { topStart: null, topEnd: null, bottomStart: lines.length > 100 ? "paging" : null, bottomEnd: null },
    });
  };

  // The mean that the site shows: of one suite within each seed first, of pooled networks within each of these first.
  const averaged = (rows, value, q) => {
    const groups = grouped(rows, q.pooled ? networkOf : (row) => row.seed);
    return mean([...groups.values()].map((part) => mean(part.map(value))));
  };
  const curveKey = (p) => `${networkOf(p)}~${p.seed}~${p.shots}`;
  const curvesOf = (found) =>
    [...grouped(found, (p) => `${p.criterion}~${curveKey(p)}`).values()].map((part) => {
      const line = part.toSorted((a, b) => a.rate - b.rate);
      const fallen = line.findIndex((p) => p.top1 < 0.95 * line[0].top1 - 1e-6);
      const last = line[(fallen < 0 ? line.length : fallen) - 1] ?? line[0];
      const auc = line.slice(1).reduce((sum, p, i) => sum + ((p.rate - line[i].rate) * (p.top1 + line[i].top1)) / 2, 0);
      return { ...line[0], a_pr: mean(line.map((p) => p.top1)), top_pr: last.rate, auc, params: last.params_left / last.params_total, macs: last.macs_left / last.macs_total };
    });

  const facts = (found, used, rate, q) => {
    const lines = [];
    if (rate === "") {
      const curves = curvesOf(found);
      const of = (name) => averaged(curves, (c) => c[name], q);
      lines.push(["Top-PR", `${percent(of("top_pr"), 1)} %`], ["Parameters at Top-PR", `${percent(of("params"), 1)} %`], ["MACs at Top-PR", `${percent(of("macs"), 1)} %`], ["AUC", of("auc").toFixed(4)]);
    } else {
      lines.push(["Parameters left", `${percent(averaged(found, (p) => p.params_left / p.params_total, q), 1)} %`], ["MACs left", `${percent(averaged(found, (p) => p.macs_left / p.macs_total, q), 1)} %`]);
    }
    const timed = used.filter((job) => job.score_seconds !== null && !job.stale);
    const machines = [...grouped(timed, (job) => `${job.device}, ${count(job.threads, "thread")}`)].sort((a, b) => b[1].length - a[1].length);
    if (machines.length) {
      const [machine, here] = machines[0];
      const memory = median(here.map((job) => job.score_peak_bytes).filter((value) => value !== null));
      lines.push(["Scoring", `${Number(mean(here.map((job) => job.score_seconds)).toPrecision(3))} s on average${memory ? `, ${bytes(memory)} of memory in the median` : ""}, in ${count(here.length, "job")} on ${machine}`]);
    }
    return element("dl", { class: "facts" }, ...lines.filter(([, text]) => !text.startsWith("–")).map(([term, text]) => element("div", {}, element("dt", {}, term), element("dd", {}, text))));
  };

  const verdict = (found, rate, q) => {
    const parts = grouped(found, (p) => p.criterion);
    const how = q.pooled ? `within each of ${count(new Set(found.map(networkOf)).size, "network")} first, then over the networks` : `within each of ${count(new Set(found.map((p) => p.seed)).size, "seed")} first, then over the seeds`;
    const means = [...parts].map(([name, part]) => [name, averaged(part, (p) => p.top1, q)]);
    const text = `Mean top-1 accuracy of ${means.length > 1 ? "the rows of each criterion" : `these ${count(found.length, "row")}`}: ${how}.${rate === "" ? " Over all rates, it is A_PR." : ""}`;
    return [...(means.length === 1 ? [element("p", { class: "verdict" }, `${percent(means[0][1])} %`)] : []), element("p", {}, text)];
  };

  const showNetworks = (found, rate, q) => {
    const names = q.criteria.filter((name) => found.some((p) => p.criterion === name));
    const of = (rows) => names.map((name) => averaged(rows.filter((p) => p.criterion === name), (p) => p.top1, q));
    const shown = (values) => [...values.map((value) => percent(value)), ...(names.length === 2 ? [values.includes(NaN) ? "–" : signed(values[0] - values[1])] : [])];
    const networks = [...grouped(found, networkOf).values()];
    const lines = networks.map((part) => [part[0].suite, part[0].model, part[0].granularity, ...shown(of(part))]);
    if (networks.length > 1) lines.push(["", "all", "", ...shown(of(found))]);
    const heads = [["suite"], ["network"], ["units"], ...names.map((name) => [name, 1]), ...(names.length === 2 ? [["first − second", 1]] : [])];
    return tabulate("network-table", heads, lines, rate === "" ? "A_PR in %" : "Top-1 accuracy in %");
  };

  // How often a criterion has the higher A_PR: on the same network, seed and images, or on each of the pooled networks.
  const standing = (curves, name, q) => {
    const all = new Set(curves.map(curveKey));
    const complete = [...grouped(curves, (c) => c.criterion)].filter(([, part]) => part.length === all.size);
    const groupOf = q.pooled ? networkOf : (c) => c.seed;
    const cellOf = q.pooled ? networkOf : curveKey;
    const cells = new Map(complete.map(([criterion, part]) => [criterion, new Map([...grouped(part, cellOf)].map(([cell, of]) => [cell, { group: groupOf(of[0]), value: mean(of.map((c) => c.a_pr)) }]))]));
    const mine = cells.get(name);
    if (!mine) return null;
    const average = (of) => mean([...grouped([...of.values()], (cell) => cell.group).values()].map((part) => mean(part.map((cell) => cell.value))));
    return [...cells].filter(([rival]) => rival !== name).map(([rival, theirs]) => {
      const gaps = [...mine].map(([cell, { group, value }]) => ({ group, gap: value - theirs.get(cell).value }));
      const won = ({ gap }) => (Math.abs(gap) < 1e-8 ? 0.5 : gap > 0 ? 1 : 0);
      const tally = (score) => gaps.filter((g) => won(g) === score).length;
      return { rival, value: average(theirs), lead: average(mine) - average(theirs), won: tally(1), tied: tally(0.5), lost: tally(0), share: mean([...grouped(gaps, (g) => g.group).values()].map((part) => mean(part.map(won)))) };
    }).sort((a, b) => a.share - b.share);
  };
  const showWins = (curves, q) => {
    const rivals = standing(curves, q.criteria[0], q);
    if (!rivals?.length) {
      summary.append(element("p", { class: "note" }, `${q.criteria[0]} lacks results that others have, or has no others beside it, so that nothing is compared.`));
      return [];
    }
    const share = mean(rivals.map((r) => r.share));
    const cells = q.pooled ? "network by network" : "at the same network, seed and number of images, within each seed first";
    summary.append(
      element("p", { class: "verdict" }, `${percent(share, 0)} % of comparisons won`),
      element("p", {}, `A_PR of ${q.criteria[0]} beside that of ${count(rivals.length, "other")}, ${cells}; a tie counts half.${q.pooled ? ` Its average rank among them is ${(1 + (1 - share) * rivals.length).toFixed(1)}.` : ""} Ranks come from tests of these differences, which the method describes.`),
    );
    return [tabulate("win-table", [["against"], ["its A_PR in %", 1], ["lead in points", 1], ["won", 1], ["tied", 1], ["lost", 1], ["share won in %", 1]],
      rivals.map((r) => [r.rival, percent(r.value), signed(r.lead), r.won, r.tied, r.lost, percent(r.share, 1)]), `${q.criteria[0]} against each other criterion, the hardest first`)];
  };

  const showRates = (found, q) => {
    const first = averaged(found.filter((p) => p.rate === 0), (p) => p.top1, q);
    const lines = [...grouped(found, (p) => p.rate)].sort((a, b) => a[0] - b[0]).map(([rate, part]) => {
      const value = averaged(part, (p) => p.top1, q);
      return [`${Number((100 * rate).toFixed(2))}`, percent(value), percent(first - value), percent(averaged(part, (p) => p.params_left / p.params_total, q), 1), percent(averaged(part, (p) => p.macs_left / p.macs_total, q), 1)];
    });
    return tabulate("rate-table", [["rate in %", 1], ["accuracy in %", 1], ["loss in points", 1], ["parameters left in %", 1], ["MACs left in %", 1]], lines, "Mean at each rate");
  };

  const heading = (id, shown) => {
    document.getElementById(id).closest("section").hidden = !shown;
  };
  const show = (q) => {
    const [summaries, contents] = [true, false].map((wanted) => needed(q).filter((file) => file.startsWith("areas/") === wanted).map((file) => loaded.get(file)));
    const inside = (row) => (!q.networks.size || q.networks.has(networkOf(row))) && (!q.seeds || q.seeds.has(String(row.seed)));
    const insideToo = (p) => inside(p) && (!q.images || q.images.has(String(p.shots)));
    const every = contents.flatMap(points).filter(insideToo);
    const everyJob = contents.flatMap(jobs).filter(inside);
    const chosen = new Set(q.criteria);
    const everything = every.filter((p) => chosen.has(p.criterion));
    const allJobs = everyJob.filter((job) => chosen.has(job.criterion));
    const wanted = Object.fromEntries(keys.map((key) => [key, options(key, distinct([...everything, ...allJobs].map((p) => p[key] ?? null)), "all")]));
    const fits = (row, used) => used.every((key) => wanted[key] === "" || String(row[key]) === wanted[key]);
    const found = everything.filter((p) => fits(p, keys));
    const used = allJobs.filter((job) => fits(job, ["granularity", "model", "seed"]));
    for (const table of tables) table.destroy();
    for (const table of document.querySelectorAll("main table")) table.replaceChildren();
    tables = [];
    summary.replaceChildren();
    const fresh = found.filter((p) => !p.stale);
    const one = new Set(fresh.map((p) => p.criterion)).size === 1;
    if (q.wins) tables.push(...showWins(summaries.flatMap(areas).filter((p) => insideToo(p) && fits(p, ["granularity", "model", "shots", "seed"])), q));
    else if (fresh.length) summary.append(...verdict(fresh, wanted.rate, q), ...(one ? [facts(fresh, used, wanted.rate, q)] : []));
    else summary.append(element("p", {}, used.length ? "The jobs below have no result." : "No rows fit."));
    heading("win-table", q.wins && tables.length);
    const several = new Set(fresh.map(networkOf)).size > 1 || !one;
    heading("network-table", !q.wins && fresh.length && several);
    if (!q.wins && fresh.length && several) tables.push(showNetworks(fresh, wanted.rate, q));
    heading("rate-table", !q.wins && one && wanted.rate === "");
    if (!q.wins && one && wanted.rate === "") tables.push(showRates(fresh, q));
    if (found.some((p) => p.stale) || used.some((job) => job.stale)) summary.append(element("p", { class: "note" }, "Some rows are out of date; they are listed and never averaged."));
    const more = [...(q.suites.length > 1 ? ["suite"] : []), ...(q.criteria.length > 1 ? ["criterion"] : [])];
    const extra = (row) => more.map((name) => row[name]);
    const whose = `${q.criteria.length > 1 ? count(q.criteria.length, "criterion").replace("criterions", "criteria") : q.criteria[0]} in ${q.suites.join(", ")}`;
    tables.push(
      tabulate("point-table",
        [...more.map((name) => [name]), ["network"], ["units"], ["seed", 1], ["images per class", 1], ["rate", 1], ["units removed", 1], ["top-1 in %", 1], ["top-5 in %", 1], ["cross-entropy", 1], ["parameters left", 1], ["MACs left", 1], ["images", 1], ["job"]],
        found.map((p) => [...extra(p), p.model, p.granularity, p.seed, p.shots, p.rate, p.n_units_removed, percent(p.top1), percent(p.top5), p.cross_entropy === null ? "–" : p.cross_entropy.toFixed(4), p.params_left ?? "–", p.macs_left ?? "–", p.n_images, `${p.key.slice(0, 10)}${p.stale ? " (out of date)" : ""}`]),
        `${count(found.length, "row")} of ${whose}`),
      tabulate("job-table",
        [["job"], ...more.map((name) => [name]), ["network"], ["units"], ["seed", 1], ["status"], ["parameters"], ["version", 1], ["scoring in s", 1], ["memory in MB", 1], ["device"], ["code"], ["libraries"], ["measured (UTC)"]],
        used.map((job) => [job.key.slice(0, 10), ...extra(job), job.model, job.granularity, job.seed, job.status === "ok" ? (job.stale ? "ok, out of date" : "ok") : `${job.status}: ${job.reason}`, settings(job.parameters), job.criterion_version, job.score_seconds === null ? "–" : job.score_seconds.toPrecision(3), job.score_peak_bytes ? Number((job.score_peak_bytes / 1e6).toPrecision(3)) : "–", `${job.device}, ${count(job.threads, "thread")}`, `pruneboard ${job.pruneboard}${job.commit ? `, ${job.commit.slice(0, 10)}${job.clean ? "" : " with changes"}` : ""}`, `Python ${job.python}, torch ${job.torch}, timm ${job.timm}, zennit ${job.zennit}`, job.time_utc]),
        count(used.length, "job")),
    );
    document.documentElement.dataset.rows = "ready";
  };

  const load = () => {
    delete document.documentElement.dataset.rows;
    const q = asked();
    const pooled = q.networks.size ? count(q.networks.size, "network") : "";
    const suite = options("suite", Object.keys(files), pooled, pooled ? "" : state.get("suite"));
    const names = [...new Set(q.suites.flatMap((name) => Object.keys(own(files, name) ?? {})))];
    const together = q.criteria.length > 1 ? `${q.criteria.length} criteria` : "";
    const criterion = options("criterion", pooled || own(files, suite) ? names : Object.keys(own(files, suite) ?? {}), together, together ? "" : state.get("criterion"));
    if (!Object.keys(files).length) {
      summary.replaceChildren(element("p", {}, "There are no rows yet."));
      return;
    }
    if (!pooled && suite !== state.get("suite")) return void state.set({ suite });
    if (!q.criteria.length) return void state.set({ criterion: criterion || names[0] });
    const missing = needed(q).filter((file) => !loaded.has(file));
    if (!missing.length) show(q);
    else for (const file of missing) document.head.append(element("script", { src: `data/${file.startsWith("areas/") ? file : `rows/${file}`}.js` }));
  };

  form.addEventListener("change", ({ target }) => {
    // The networks that were pooled hold until another suite is chosen.
    state.set({ ...(target.name === "suite" ? { network: null, seeds: null, images: null } : {}), [target.name]: target.value });
  });
  state.listen((changed) => changed.includes("theme") || load());
  load();
  form.hidden = false;
})();
