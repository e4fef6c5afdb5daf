"use strict";

// Answers which criterion to use, from the losses that the front page holds.
(() => {
  const form = document.querySelector("[data-finder]");
  if (!form) return;
  const { state, element, json, percent } = pruneboard;
  const { groups, families } = json("finder-data");
  const answer = document.querySelector("[data-answer]");
  const protocols = { one_shot: "nothing is trained", iterative: "nothing, in steps", iterative_finetune: "fine-tuned, in steps" };
  const allowed = { any: "anything", data: "labels, no tuning", images: "images only", free: "no data" };
  const fits = {
    any: () => true,
    data: (needs) => !needs.includes("tuning"),
    images: (needs) => needs === "nothing" || needs === "images",
    free: (needs) => needs === "nothing",
  };
  const losses = [0.5, 1, 2, 3, 5, 10, 20];
  const unique = (values) => [...new Set(values)];
  const images = (n) => `${n} image${Number(n) === 1 ? "" : "s"} per class`;

  const picker = (key, options, title = (value) => value) => {
    const fieldset = form.querySelector(`[data-key=${key}]`);
    const wanted = state.get(key);
    const value = options.includes(wanted) ? wanted : options.includes(defaults[key]) ? defaults[key] : options[0];
    if (fieldset.dataset.options !== options.join()) {
      for (const old of fieldset.querySelectorAll("label")) old.remove();
      for (const option of options) {
        const input = element("input", { type: "radio", name: key, value: option });
        fieldset.append(element("label", {}, input, element("span", {}, title(option))));
      }
      fieldset.dataset.options = options.join();
    }
    for (const input of fieldset.querySelectorAll("input")) input.checked = input.value === value;
    fieldset.hidden = options.length < 2 && key === "protocol";
    return value;
  };
  const defaults = { network: "CNN", shots: "10", needs: "data", protocol: "one_shot", goal: "rate" };

  const question = () => {
    const network = picker("network", unique(groups.map((g) => g.kind)));
    const ofKind = groups.filter((g) => g.kind === network);
    const units = picker("units", unique(ofKind.map((g) => g.granularity)));
    const ofUnits = ofKind.filter((g) => g.granularity === units);
    const protocol = picker("protocol", unique(ofUnits.map((g) => g.protocol)), (p) => protocols[p] ?? p);
    const group = ofUnits.find((g) => g.protocol === protocol);
    const shots = picker("shots", group.shots.map(String));
    const needs = picker("needs", Object.keys(allowed), (key) => allowed[key]);
    const goal = ["rate", "loss"].includes(state.get("goal", "rate")) ? state.get("goal", "rate") : "rate";
    for (const input of form.querySelectorAll("[name=goal]")) input.checked = input.value === goal;
    const rates = group.rates.filter((r) => r > 0);
    const slider = form.querySelector("[name=rate]");
    slider.max = rates.length;
    const asked = Number(state.get("rate", "0.3"));
    const nearest = rates.reduce((best, r, i) => (Math.abs(r - asked) < Math.abs(rates[best] - asked) ? i : best), 0);
    slider.value = nearest + 1;
    const lossSlider = form.querySelector("[name=loss]");
    const lossAt = Math.max(0, losses.indexOf(Number(state.get("loss", "2"))));
    lossSlider.value = lossAt;
    form.querySelector("[data-out=rate]").textContent = `${Number((100 * rates[nearest]).toFixed(2))} %`;
    form.querySelector("[data-out=loss]").textContent = `${losses[lossAt]} point${losses[lossAt] === 1 ? "" : "s"}`;
    for (const label of form.querySelectorAll("[data-goal]")) label.hidden = label.dataset.goal !== goal;
    slider.setAttribute("aria-valuetext", form.querySelector("[data-out=rate]").textContent);
    lossSlider.setAttribute("aria-valuetext", form.querySelector("[data-out=loss]").textContent);
    return { network, group, shots, needs, goal, rate: rates[nearest], tolerated: losses[lossAt] * 100 };
  };

  const candidates = (q) => {
    const s = q.group.shots.indexOf(Number(q.shots));
    const r = q.group.rates.indexOf(q.rate);
    const reach = (i, slack) => {
      const line = q.group.loss[i][s];
      const stop = line.findIndex((loss, j) => loss + (slack ? q.group.half_width[i][s][j] ?? 0 : 0) > q.tolerated);
      return stop < 0 ? q.group.rates.length - 1 : Math.max(0, stop - 1);
    };
    const found = q.group.criteria
      .map((criterion, i) => ({
        ...criterion,
        loss: q.group.loss[i][s][r],
        half: q.group.half_width[i][s][r],
        reach: reach(i, false),
        surely: reach(i, true),
        total: q.group.loss[i][s].reduce((a, b) => a + b, 0),
        index: i,
      }))
      .filter((c) => fits[q.needs](c.needs));
    if (q.goal === "loss") return found.sort((a, b) => b.reach - a.reach || b.surely - a.surely || a.total - b.total);
    return found.sort((a, b) => a.loss - b.loss || a.total - b.total);
  };

  // Behind the best that may be used: the paired test with Holm's correction tells them apart.
  const separated = (q, c) => {
    const s = q.group.shots.indexOf(Number(q.shots));
    return q.group.n_seeds < 2 ? null : q.group.behind[q.needs][c.index][s][q.group.rates.indexOf(q.rate)] === "1";
  };

  const number = (text) => element("td", { class: "number" }, text);
  // All networks that are pooled, with the seeds that they share.
  const rowsOf = (q, ...names) => {
    const query = new URLSearchParams(q.group.networks.map(({ suite, model }) => ["network", [suite, model, q.group.granularity].join("~")]));
    for (const name of names) query.append("criterion", name);
    if (q.group.seeds) query.set("seeds", q.group.seeds);
    query.set("shots", q.shots);
    if (q.goal === "rate") query.set("rate", q.rate);
    return `rows.html?${query}`;
  };
  const linked = (text, href, kind = null) => element("td", { class: "number" }, element("a", { href, class: kind }, text));
  const points = (value) => `${value > 0 ? "−" : value < 0 ? "+" : ""}${percent(Math.abs(value))}`;

  const render = () => {
    const q = question();
    const list = candidates(q);
    answer.replaceChildren();
    if (!list.length) {
      answer.append(element("p", {}, "No criterion that may be used was measured there; allow it to look at more."));
      return;
    }
    const [best] = list;
    const level = q.goal === "rate"
      ? list.filter((c) => c !== best && separated(q, c) === false)
      : list.filter((c) => c !== best && c.reach === best.reach);
    const left = q.group.unpruned - best.loss;
    const rateText = (j) => `${Number((100 * q.group.rates[j]).toFixed(2))} %`;
    const head = element("p", { class: "verdict" }, "Use ", element("a", { href: `criteria/${best.slug}.html` }, best.name), ".");
    const reason = element("p", {});
    if (q.goal === "rate") {
      reason.append(`With ${rateText(q.group.rates.indexOf(q.rate))} of the ${q.group.granularity} removed, ${percent(left, 1)} % accuracy is left of ${percent(q.group.unpruned, 1)} %: a ${best.loss < 0 ? "gain" : "loss"} of ${percent(Math.abs(best.loss))} points${best.half === null ? "" : ` ± ${percent(best.half)}`}. `);
    } else {
      reason.append(`It loses at most ${q.tolerated / 100} points up to ${rateText(best.reach)} of the ${q.group.granularity}${best.half === null ? "" : `, with its whole 95 % interval up to ${rateText(best.surely)}`}. `);
    }
    const others = level.slice(0, 4).map((c) => c.name).join(", ") + (level.length > 4 ? ` and ${level.length - 4} more` : "");
    const sure = q.group.n_seeds < 2 ? "One seed says nothing of how sure this is."
      : q.goal === "loss" ? (level.length ? `As far get ${others}.` : "No other gets as far.")
      : level.length ? `It cannot be told from ${others}: their differences lie within what the draw of images does.`
      : "All others are behind it by more than the draw of images explains.";
    reason.append(element("strong", {}, sure));
    const where = q.group.networks.map((n) => n.model).join(", ");
    const basis = element("p", { class: "quiet" }, `Measured on ${where} with ${images(q.shots)} and ${q.group.n_seeds} draw${q.group.n_seeds === 1 ? "" : "s"} of images. On another network the order may differ.`);
    const model = q.group.networks[0].model;
    const tuned = best.name.endsWith(" (tuned)");
    const rate = q.goal === "rate" ? q.rate : q.group.rates[best.surely] || q.group.rates[best.reach];
    const command = tuned
      ? `pruneboard tune ${best.name.slice(0, -8)} --suite ${q.group.networks[0].suite} --model ${model}`
      : `pruneboard prune ${model} --criterion ${best.raw} --granularity ${q.group.granularity} --rate ${rate} --shots ${q.shots} --out small`;
    const code = element("pre", {}, element("code", {}, command));
    const copy = element("button", { type: "button", class: "plain copy" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
      }
    });
    const table = element("table", { class: "found" });
    const heads = q.goal === "rate" ? ["", "criterion", "looks at", "accuracy left", "loss in points", "against the best"] : ["", "criterion", "looks at", "rate reached", "with its interval"];
    table.append(element("caption", {}, element("span", {}, `The first ${Math.min(8, list.length)} of ${list.length}`)));
    table.append(element("thead", {}, element("tr", {}, ...heads.map((h, i) => (h || i ? element("th", { scope: "col", class: i > 2 ? "number" : null }, h) : element("td"))))));
    const body = element("tbody");
    list.slice(0, 8).forEach((c, i) => {
      const line = element("tr", {}, element("td", { class: "number", "data-count": true }, String(i + 1)));
      const name = element("th", { scope: "row" }, element("i", { class: `dot family-${families[c.name] ?? "other"}`, "aria-hidden": "true" }), element("a", { href: `criteria/${c.slug}.html` }, c.name));
      line.append(name, element("td", {}, c.needs));
      if (q.goal === "rate") {
        line.append(
          linked(percent(q.group.unpruned - c.loss), rowsOf(q, c.name), "value"),
          linked(`${points(c.loss)}${c.half === null ? "" : ` ± ${percent(c.half)}`}`, rowsOf(q, c.name)),
          c === best ? number("best") : linked(separated(q, c) ? "behind" : "cannot be told", rowsOf(q, c.name, best.name)),
        );
      } else {
        line.append(linked(rateText(c.reach), rowsOf(q, c.name), "value"), linked(rateText(c.surely), rowsOf(q, c.name)));
      }
      body.append(line);
    });
    table.append(body);
    answer.append(head, reason, element("div", { class: "command" }, code, copy), element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": "Criteria that were found" }, table), basis);
  };

  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    if (name === "rate") {
      const q = question.last;
      const rates = groups.find((g) => g === q.group).rates.filter((r) => r > 0);
      state.set({ rate: rates[Number(value) - 1] });
    } else if (name === "loss") state.set({ loss: losses[Number(value)] });
    else state.set({ [name]: value });
  });
  const show = () => {
    question.last = question();
    render();
  };
  state.listen((keys) => keys.includes("theme") || show());
  show();
  form.hidden = false;
  document.documentElement.dataset.finder = "ready";
})();
