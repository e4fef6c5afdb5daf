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
  const defaults = { network: "CNN", shots: "10", needs: "data", protocol: "one_shot", goal: "rate", rate: 0.3, loss: 2 };
  const unique = (values) => [...new Set(values)];
  const count = (n, noun) => `${n} ${noun}${Number(n) === 1 ? "" : "s"}`;
  const criteria = (n) => (n === 1 ? "1 criterion" : `${n} criteria`);
  const listed = (names) => (names.length < 2 ? names.join("") : `${names.slice(0, -1).join(", ")} and ${names.at(-1)}`);
  const inPercent = (rate) => `${Number((100 * rate).toFixed(2))} %`;

  const picker = (key, options, { title = (value) => value, blocked = () => false } = {}) => {
    const fieldset = form.querySelector(`[data-key=${key}]`);
    const wanted = state.get(key);
    const value = options.includes(wanted) ? wanted : options.includes(defaults[key]) ? defaults[key] : options[0];
    if (fieldset.dataset.options !== options.join()) {
      for (const old of fieldset.querySelectorAll("label")) old.remove();
      for (const option of options) {
        const input = element("input", { type: "radio", name: key, value: option });
        fieldset.append(element("label", {}, input, element("span")));
      }
      fieldset.dataset.options = options.join();
    }
    for (const input of fieldset.querySelectorAll("input")) {
      input.checked = input.value === value;
      input.disabled = blocked(input.value) && !input.checked;
      input.nextElementSibling.textContent = title(input.value);
    }
    fieldset.hidden = options.length < 2 && key === "protocol";
    return value;
  };

  // All networks of the kind together, or one of them, on which more criteria may have been measured.
  const networkKey = (answer) => (answer.networks.length > 1 ? "" : `${answer.networks[0].suite}~${answer.networks[0].model}`);
  const networkChoice = (answers) => {
    const holder = form.querySelector("[data-on]");
    const control = holder.querySelector("select");
    const models = answers.filter((a) => a.networks.length === 1).map((a) => a.networks[0].model);
    const title = ({ networks: [{ suite, model }, ...more] }) =>
      more.length ? `all ${more.length + 1} networks` : models.filter((name) => name === model).length > 1 ? `${model}, ${suite}` : model;
    const chosen = answers.find((a) => networkKey(a) === state.get("on")) ?? answers[0];
    control.replaceChildren(...answers.map((a) => element("option", { value: networkKey(a) }, `${title(a)}: ${criteria(a.criteria.length)}`)));
    control.value = networkKey(chosen);
    holder.hidden = answers.length < 2;
    return chosen;
  };

  const nearest = (values, asked) => values.reduce((best, v) => (Math.abs(v - asked) < Math.abs(best - asked) ? v : best));
  const numeric = (key, fits) => {
    const asked = Number(state.get(key) || NaN);
    return fits(asked) ? asked : defaults[key];
  };
  const slider = (name, values, value, text) => {
    const input = form.querySelector(`input[name=${name}]`);
    input.min = 0;
    input.max = values.length - 1;
    input.value = values.indexOf(value);
    input.setAttribute("aria-valuetext", text);
    form.querySelector(`[data-out=${name}]`).textContent = text;
  };

  const question = () => {
    const network = picker("network", unique(groups.map((g) => g.kind)));
    const ofKind = groups.filter((g) => g.kind === network);
    const units = picker("units", unique(ofKind.map((g) => g.granularity)));
    const ofUnits = ofKind.filter((g) => g.granularity === units);
    const protocol = picker("protocol", unique(ofUnits.map((g) => g.protocol)), { title: (p) => protocols[p] ?? p });
    const found = networkChoice(ofUnits.find((g) => g.protocol === protocol).answers);
    const shots = picker("shots", found.shots.map(String));
    const open = (key) => found.criteria.filter((c) => fits[key](c.needs)).length;
    const needs = picker("needs", Object.keys(allowed), { title: (key) => `${allowed[key]} (${open(key)})`, blocked: (key) => !open(key) });
    const goal = ["rate", "loss"].includes(state.get("goal")) ? state.get("goal") : defaults.goal;
    for (const input of form.querySelectorAll("[name=goal]")) input.checked = input.value === goal;
    const rates = found.rates.filter((r) => r > 0);
    const rate = nearest(rates, numeric("rate", (r) => r > 0 && r <= 1));
    slider("rate", rates, rate, inPercent(rate));
    const loss = numeric("loss", (l) => losses.includes(l));
    slider("loss", losses, loss, count(loss, "point"));
    for (const label of form.querySelectorAll("[data-goal]")) label.hidden = label.dataset.goal !== goal;
    return { units, protocol, found, shots, needs, goal, rates, rate, tolerated: 100 * loss, s: found.shots.indexOf(Number(shots)), r: found.rates.indexOf(rate) };
  };

  // The last rate up to which a line of losses stays within what is tolerated.
  const reach = (q, line) => {
    const stop = line.findIndex((loss) => loss > q.tolerated);
    return stop < 0 ? line.length - 1 : Math.max(0, stop - 1);
  };
  const candidates = (q) => {
    const list = q.found.criteria
      .map((criterion, i) => {
        const line = q.found.loss[i][q.s];
        const halves = q.found.half_width?.[i][q.s] ?? null;
        const networks = q.found.loss_by_network[i][q.s];
        return {
          ...criterion,
          loss: line[q.r],
          half: halves && halves[q.r],
          reach: reach(q, line),
          surely: reach(q, line.map((loss, j) => loss + (halves ? halves[j] : 0))),
          total: line.reduce((a, b) => a + b, 0),
          // On each network the loss, or the place of the rate that is reached, less of which is better in both.
          each: q.found.networks.map((_, n) => (q.goal === "rate" ? networks[q.r][n] : -reach(q, networks.map((losses) => losses[n])))),
          // Behind the best that may be used: the paired test with Holm's correction tells them apart.
          behind: q.found.behind[q.needs][i][q.s][q.r] === "1",
        };
      })
      .filter((c) => fits[q.needs](c.needs));
    if (q.goal === "loss") return list.sort((a, b) => b.reach - a.reach || b.surely - a.surely || a.total - b.total);
    return list.sort((a, b) => a.loss - b.loss || a.total - b.total);
  };

  // All networks that are pooled, or those at the given places, with the seeds that they share.
  const rowsOf = (q, names, networks = q.found.networks) => {
    const query = new URLSearchParams(networks.map(({ suite, model }) => ["network", [suite, model, q.units].join("~")]));
    for (const name of names) query.append("criterion", name);
    if (q.found.seeds) query.set("seeds", q.found.seeds);
    query.set("shots", q.shots);
    if (q.goal === "rate") query.set("rate", q.rate);
    return `rows.html?${query}`;
  };
  const number = (text) => element("td", { class: "number" }, text);
  const linked = (text, href, kind = null) => element("td", { class: "number" }, element("a", { href, class: kind }, text));
  const points = (value) => `${value > 0 ? "−" : value < 0 ? "+" : ""}${percent(Math.abs(value))}`;
  const head = (titles, first) => element("thead", {}, element("tr", {}, ...titles.map((title, i) => (title ? element("th", { scope: "col", class: i >= first ? "number" : null }, title) : element("td")))));
  const named = (c) => element("th", { scope: "row" }, element("i", { class: `dot family-${families[c.name] ?? "other"}`, "aria-hidden": "true" }), element("a", { href: `criteria/${c.slug}.html` }, c.name));
  const captioned = (text, kind, ...parts) => element("table", { class: kind }, element("caption", {}, element("span", {}, text)), ...parts);
  const scrolling = (label, table) => element("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": label }, table);

  const bestOn = (list) => list[0].each.map((_, n) => Math.min(...list.map((c) => c.each[n])));
  const winsOf = (c, least) => least.filter((value, n) => c.each[n] === value).length;

  const verdict = (q, best, wins) => {
    const n = q.found.networks.length;
    return element("p", { class: "verdict" }, "Use ", element("a", { href: `criteria/${best.slug}.html` }, best.name), n < 2 || wins === n ? "." : ` (best on ${wins} of ${n} networks).`);
  };

  const told = (q, best) => {
    const half = best.half === null ? "" : ` ± ${percent(best.half)}`;
    if (q.goal === "rate") return `With ${inPercent(q.rate)} of the ${q.units} removed, ${percent(q.found.unpruned - best.loss, 1)} % accuracy is left of ${percent(q.found.unpruned, 1)} %: a ${best.loss < 0 ? "gain" : "loss"} of ${percent(Math.abs(best.loss))} points${half}. `;
    const surely = best.half === null ? "" : `, with its whole 95 % interval up to ${inPercent(q.found.rates[best.surely])}`;
    const least = Math.min(...best.each.map((value) => -value));
    const weakest = least < best.reach ? `, and on ${listed(q.found.networks.filter((_, n) => -best.each[n] === least).map((network) => network.model))} alone up to ${inPercent(q.found.rates[least])}` : "";
    return `It loses at most ${count(q.tolerated / 100, "point")} up to ${inPercent(q.found.rates[best.reach])} of the ${q.units}${surely}${weakest}. `;
  };

  const howSure = (q, list, agree) => {
    const [best, ...rest] = list;
    const several = q.found.networks.length > 1;
    const mean = several ? "on the mean of these networks " : "";
    const level = q.goal === "rate" ? rest.filter((c) => !c.behind) : rest.filter((c) => c.reach === best.reach);
    const others = listed([...level.slice(0, 4).map((c) => c.name), ...(level.length > 4 ? [`${level.length - 4} more`] : [])]);
    if (!rest.length) return "No other that may be used was measured there.";
    if (q.found.n_seeds < 2) return "One seed says nothing of how sure this is.";
    if (q.goal === "loss") return level.length ? `${others} ${level.length > 1 ? "get" : "gets"} as far${several ? " on their mean" : ""}.` : `No other gets as far${several ? " on their mean" : ""}.`;
    if (level.length) return `${several ? "On the mean of these networks it" : "It"} cannot be told apart from ${others}: their differences lie within what other draws of images do.`;
    return `All others are behind it ${mean}by more than other draws of images explain${agree ? "." : ", but the networks disagree."}`;
  };

  // Which criteria are best where the first one is not.
  const disagreement = (q, list, least) => {
    const places = q.found.networks.map((network, n) => ({ network, n })).filter(({ n }) => list[0].each[n] !== least[n]);
    const winners = places.map(({ network, n }) => ({ model: network.model, name: list.find((c) => c.each[n] === least[n]).name }));
    return unique(winners.map((w) => w.name)).map((name) => `${name} is better on ${listed(winners.filter((w) => w.name === name).map((w) => w.model))}`).join("; ");
  };

  const reasonFor = (q, list, least) => {
    const n = q.found.networks.length;
    const wins = winsOf(list[0], least);
    const reason = element("p", {}, told(q, list[0]), element("strong", {}, howSure(q, list, wins === n)));
    if (n > 1) reason.append(wins === n ? ` It is best on each of the ${n} networks.` : ` It is best on ${wins} of ${n} networks; ${disagreement(q, list, least)}.`);
    return reason;
  };

  const ranking = (q, list, least) => {
    const n = q.found.networks.length;
    const best = list[0];
    const heads = ["", "criterion", "looks at", ...(q.goal === "rate" ? ["accuracy left", "loss in points", "against the best"] : ["rate reached", "with its interval"]), ...(n > 1 ? ["best on"] : [])];
    const lines = list.slice(0, 8).map((c, i) => {
      const rows = rowsOf(q, [c.name]);
      const line = element("tr", {}, element("td", { class: "number", "data-count": true }, String(i + 1)), named(c), element("td", {}, c.needs));
      if (q.goal === "rate") {
        const apart = q.found.n_seeds < 2 ? "one seed" : c.behind ? "behind" : "cannot be told apart";
        line.append(linked(percent(q.found.unpruned - c.loss), rows, "value"), linked(`${points(c.loss)}${c.half === null ? "" : ` ± ${percent(c.half)}`}`, rows), c === best ? number("best") : linked(apart, rowsOf(q, [c.name, best.name])));
      } else line.append(linked(inPercent(q.found.rates[c.reach]), rows, "value"), linked(inPercent(q.found.rates[c.surely]), rows));
      if (n > 1) line.append(linked(`${winsOf(c, least)} of ${n}`, rowsOf(q, list.map((other) => other.name))));
      return line;
    });
    return scrolling("Criteria that were found", captioned(`The first ${lines.length} of ${list.length}`, "found", head(heads, 3), element("tbody", {}, ...lines)));
  };

  const byNetwork = (q, list, least) => {
    const shown = (value, n) => (q.goal === "rate" ? percent(q.found.unpruned_by_network[n] - value, 1) : inPercent(q.found.rates[-value]));
    const lines = list.slice(0, 8).map((c) => element("tr", {}, named(c), ...q.found.networks.map((network, n) => linked(shown(c.each[n], n), rowsOf(q, [c.name], [network]), c.each[n] === least[n] ? "best" : null))));
    const caption = q.goal === "rate" ? "Accuracy left on each network in %, the best in bold" : "Rate reached on each network, the best in bold";
    return scrolling("Each network", captioned(caption, "found each", head(["criterion", ...q.found.networks.map((network) => network.model)], 1), element("tbody", {}, ...lines)));
  };

  // A name in a command that a shell would take for more than a word.
  const word = (text) => (/^[\w./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);
  const code = (text) => element("code", {}, text);
  const commandFor = (q, best) => {
    const network = q.found.networks.find((candidate) => candidate.embedded) ?? q.found.networks[0];
    const where = `--suite ${word(network.suite)} --model ${word(network.model)}`;
    const name = word(best.registered);
    const own = element("a", { href: "submit.html#own-network" }, "Your own network");
    const needs = network.embedded ? "it needs no download" : "it needs the data set ";
    const data = network.embedded ? [] : [code(network.dataset), ", from a folder that ", code("$PRUNEBOARD_DATA"), " names or fetched where it may be"];
    const example = ["An example with ", code(network.model), ", a network of the benchmark: ", needs, ...data, ". "];
    if (q.protocol !== "one_shot") {
      const command = `pruneboard run ${word(network.suite)} --criterion ${name} --model ${word(network.model)}${best.tuned ? " --tuned" : ""}`;
      return [command, [...example, best.tuned ? "In the folder of the published tables, which hold its parameters, it measures" : "It measures", " the criterion under this protocol, at every rate and number of images of the suite; a file of a pruned network is written for one shot only."]];
    }
    if (best.tuned) return [`pruneboard tune ${name} ${where} --granularity ${q.units}`, [...example, "It searches parameters on training images, and measures the criterion with and without them. ", own, " needs a suite that lists it."]];
    const rate = q.goal === "rate" ? q.rate : q.found.rates[best.surely] || q.found.rates[best.reach];
    const command = `pruneboard prune ${word(network.model)} --suite ${word(network.suite)} --criterion ${name} --granularity ${q.units} --rate ${rate} --shots ${q.shots} --out small`;
    return [command, [...example, "It writes the smaller network to ", code("small.safetensors"), " and ", code("small.py"), ". ", own, " takes the same command."]];
  };
  const copyable = (command) => {
    const text = element("pre", { tabindex: "0", role: "region", "aria-label": "Command" }, code(command));
    const copy = element("button", { type: "button", class: "plain copy" }, "Copy");
    copy.addEventListener("click", async () => {
      try {
        await navigator.clipboard.writeText(command);
        copy.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(text);
      }
    });
    return element("div", { class: "command" }, text, copy);
  };

  // What is not compared, those together that lack the same.
  const leftOut = (q) => {
    const { left_out: out, shots_left_out: shots, networks } = q.found;
    if (!out.length && !shots.length) return [];
    const lines = unique(out.map((c) => JSON.stringify(c.lacks))).map((key) => {
      const whys = unique(JSON.parse(key).map(([, why]) => why));
      const where = (why) => listed(JSON.parse(key).filter((lack) => lack[1] === why).map(([n]) => networks[n].model));
      const names = out.filter((c) => JSON.stringify(c.lacks) === key).flatMap((c, i) => [...(i ? [", "] : []), element("a", { href: `criteria/${c.slug}.html` }, c.name)]);
      const said = { "not measured": "not measured on", incomplete: "results are missing on", failed: "failed on", declined: "cannot score" };
      return element("li", {}, ...names, `: ${whys.map((why) => `${said[why]} ${where(why)}`).join("; ")}`);
    });
    if (shots.length) lines.push(element("li", {}, `${listed(shots.map(String))} images per class: not measured on every network`));
    const what = [...(out.length ? [criteria(out.length)] : []), ...(shots.length ? [`${listed(shots.map(String))} images per class`] : [])];
    const advice = networks.length > 1 ? [element("p", {}, "Only what all of these networks have is compared. Choose one network under “Measured on”, and all that was measured on it takes part.")] : [];
    return [element("details", { class: "left-out" }, element("summary", {}, `Left out: ${what.join("; ")}`), ...advice, element("ul", {}, ...lines))];
  };

  const render = (q) => {
    const list = candidates(q);
    answer.replaceChildren();
    if (!list.length) {
      answer.append(element("p", {}, "No criterion that may be used was measured there; allow it to look at more."), ...leftOut(q));
      return;
    }
    const least = bestOn(list);
    const [command, says] = commandFor(q, list[0]);
    const several = q.found.networks.length > 1;
    const basis = `Measured on ${listed(q.found.networks.map((n) => n.model))} with ${count(q.shots, "image")} per class and ${count(q.found.n_seeds, "draw")} of images. Intervals and tests speak of other draws of images on ${several ? "these networks" : "this network"}, not of other networks.`;
    answer.append(
      verdict(q, list[0], winsOf(list[0], least)),
      reasonFor(q, list, least),
      copyable(command),
      element("p", { class: "quiet" }, ...says),
      ranking(q, list, least),
      ...(several ? [byNetwork(q, list, least)] : []),
      element("p", { class: "quiet" }, basis),
      ...leftOut(q),
    );
  };

  let asked;
  form.addEventListener("input", (event) => {
    const { name, value } = event.target;
    const of = { rate: asked.rates, loss: losses }[name];
    state.set({ [name]: of ? of[Number(value)] : value });
  });
  const show = () => {
    const open = answer.querySelector("details")?.open ?? false;
    asked = question();
    render(asked);
    if (open) answer.querySelector("details")?.setAttribute("open", "");
  };
  state.listen((keys) => keys.includes("theme") || show());
  show();
  form.hidden = false;
  document.documentElement.dataset.finder = "ready";
})();
