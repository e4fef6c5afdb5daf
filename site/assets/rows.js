"use strict";

// Shows the rows behind a number: those of one suite and criterion, loaded as a script, narrowed by what is chosen.
(() => {
  const { state, element, json } = pruneboard;
  const files = json("row-files");
  const form = document.querySelector("[data-rows]");
  const summary = document.querySelector("[data-summary]");
  const keys = ["granularity", "model", "shots", "rate", "seed"];
  const select = (key) => form.querySelector(`[data-key=${key}]`);
  const loaded = new Map();
  let tables = [];

  pruneboard.receive = (file, content) => {
    loaded.set(file, content);
    if (file === current()) show();
  };
  const own = (object, key) => (Object.hasOwn(object, key) ? object[key] : undefined);
  const current = () => own(own(files, state.get("suite")) ?? {}, state.get("criterion"));

  const options = (key, values, any) => {
    const control = select(key);
    const wanted = state.get(key);
    control.replaceChildren(...(any ? [element("option", { value: "" }, "all")] : []), ...values.map((v) => element("option", { value: v }, v)));
    control.value = values.map(String).includes(wanted) ? wanted : any ? "" : values[0] ?? "";
    return control.value;
  };
  const column = (table, name, i) => (Array.isArray(table[name]) ? table[name][i] : table[name].every);
  const distinct = (values) => [...new Set(values)].filter((v) => v !== null).sort((a, b) => (typeof a === "number" ? a - b : String(a).localeCompare(String(b))));

  const points = (content) =>
    content.points.job.map((job, i) => ({
      job,
      ...Object.fromEntries(Object.keys(content.points).filter((k) => k !== "job").map((k) => [k, column(content.points, k, i)])),
      ...Object.fromEntries(["model", "granularity", "seed", "stale", "key"].map((k) => [k, column(content.jobs, k, job)])),
    }));
  const jobs = (content) => {
    const n = Math.max(...Object.values(content.jobs).map((v) => (Array.isArray(v) ? v.length : 1)));
    return Array.from({ length: n }, (_, i) => Object.fromEntries(Object.keys(content.jobs).map((k) => [k, column(content.jobs, k, i)])));
  };

  const percent = (value) => (value === null ? "–" : (100 * value).toFixed(2));
  const tabulate = (id, heads, lines, caption) => {
    const table = document.getElementById(id);
    const text = DataTable.render.text();
    table.append(element("caption", {}, element("span", {}, caption)));
    return new DataTable(table, {
      data: lines,
      // Whatever rows hold is shown as text.
      columns: heads.map(([title, numeric]) => ({ title, render: text, className: numeric ? "number" : "reason", type: numeric ? "num" : "string" })),
      paging: lines.length > 100, pageLength: 100, lengthChange: false, searching: false, info: false, autoWidth: false, order: [],
      layout: { topStart: null, topEnd: null, bottomStart: lines.length > 100 ? "paging" : null, bottomEnd: null },
    });
  };

  const mean = (values) => values.reduce((a, b) => a + b, 0) / values.length;
  const average = (found) => {
    const seeds = new Map();
    for (const p of found) seeds.set(p.seed, [...(seeds.get(p.seed) ?? []), p.top1]);
    return [mean([...seeds.values()].map(mean)), seeds.size];
  };

  const show = () => {
    const content = loaded.get(current());
    const everything = points(content);
    const allJobs = jobs(content);
    const wanted = Object.fromEntries(keys.map((key) => [key, options(key, distinct([...everything, ...(key in allJobs[0] ? allJobs : [])].map((p) => p[key] ?? null)), true)]));
    const fits = (row, used) => used.every((key) => wanted[key] === "" || String(row[key]) === wanted[key]);
    const found = everything.filter((p) => fits(p, keys));
    const used = allJobs.filter((job) => fits(job, ["granularity", "model", "seed"]));
    summary.replaceChildren();
    const fresh = found.filter((p) => !p.stale);
    if (fresh.length) {
      const [value, n] = average(fresh);
      summary.append(element("p", { class: "verdict" }, `${percent(value)} %`), element("p", {}, `Mean top-1 accuracy of these ${fresh.length.toLocaleString("en")} rows: within each of ${n} seed${n === 1 ? "" : "s"} first, then over the seeds.${wanted.rate === "" ? " Over all rates, it is A_PR." : ""}`));
    } else summary.append(element("p", {}, used.length ? "The jobs below have no result." : "No rows fit."));
    if (found.some((p) => p.stale) || used.some((job) => job.stale)) summary.append(element("p", { class: "note" }, "Some rows are out of date; they are listed and never averaged."));
    for (const table of tables) table.destroy();
    for (const id of ["point-table", "job-table"]) document.getElementById(id).replaceChildren();
    tables = [
      tabulate("point-table",
        [["network"], ["units"], ["seed", 1], ["images per class", 1], ["rate", 1], ["units removed", 1], ["top-1 in %", 1], ["top-5 in %", 1], ["cross-entropy", 1], ["parameters left", 1], ["MACs left", 1], ["images", 1], ["job"]],
        found.map((p) => [p.model, p.granularity, p.seed, p.shots, p.rate, p.n_units_removed, percent(p.top1), percent(p.top5), p.cross_entropy === null ? "–" : p.cross_entropy.toFixed(4), p.params_left ?? "–", p.macs_left ?? "–", p.n_images, `${p.key.slice(0, 10)}${p.stale ? " (out of date)" : ""}`]),
        `${found.length.toLocaleString("en")} rows of ${content.criterion} in ${content.suite}`),
      tabulate("job-table",
        [["job"], ["network"], ["units"], ["seed", 1], ["status"], ["parameters"], ["version", 1], ["scoring in s", 1], ["device"], ["code"], ["libraries"], ["measured (UTC)"]],
        used.map((job) => [job.key.slice(0, 10), job.model, job.granularity, job.seed, job.status === "ok" ? (job.stale ? "ok, out of date" : "ok") : `${job.status}: ${job.reason}`, job.parameters, job.criterion_version, job.score_seconds === null ? "–" : job.score_seconds.toPrecision(3), `${job.device}, ${job.threads} thread${job.threads === 1 ? "" : "s"}`, `pruneboard ${job.pruneboard}${job.commit ? `, ${job.commit.slice(0, 10)}${job.clean ? "" : " with changes"}` : ""}`, `Python ${job.python}, torch ${job.torch}, timm ${job.timm}, zennit ${job.zennit}`, job.time_utc]),
        `${used.length} job${used.length === 1 ? "" : "s"}`),
    ];
    document.documentElement.dataset.rows = "ready";
  };

  const load = () => {
    delete document.documentElement.dataset.rows;
    const suite = options("suite", Object.keys(files), false);
    const criterion = options("criterion", Object.keys(own(files, suite) ?? {}), false);
    if (!criterion) {
      summary.replaceChildren(element("p", {}, "There are no rows yet."));
      return;
    }
    if (suite !== state.get("suite") || criterion !== state.get("criterion")) {
      state.set({ suite, criterion });
      return;
    }
    const file = current();
    if (loaded.has(file)) show();
    else document.head.append(element("script", { src: `data/rows/${file}.js` }));
  };

  form.addEventListener("change", (event) => state.set({ [event.target.name]: event.target.value }));
  state.listen((changed) => changed.includes("theme") || load());
  load();
  form.hidden = false;
})();
