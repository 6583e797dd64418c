"use strict";
// What is expected of a merge with these weights: the Gaussian process and the scores of src/surrogate, for one recipe.
const whatIf = (() => {
  const given = JSON.parse(document.getElementById("what-if-data").textContent);
  const panel = document.getElementById("what-if");
  const inputs = [...panel.querySelectorAll("input")];

  function decoded(text, kind) {
    return new kind(Uint8Array.from(atob(text), (one) => one.charCodeAt(0)).buffer);
  }
  const answers = decoded(given.answers, Float32Array); // [E, A]
  const precision = decoded(given.precision, Float64Array); // K⁻¹ of each part, [P, E, E]; 0 for models not asked
  const [task, part, choices, gold] = ["task", "part", "choices", "gold"].map((key) => decoded(given[key], Uint16Array));
  const weight = decoded(given.weight, Float32Array); // of each question in its task
  const models = given.squares.length;
  const total = answers.length / models;

  const dot = (a, b) => a.reduce((sum, one, place) => sum + one * b[place], 0);

  // The normal distribution function, to 1e-7 (Abramowitz and Stegun 7.1.26).
  function ndtr(x) {
    const z = Math.abs(x) / Math.SQRT2, t = 1 / (1 + 0.3275911 * z);
    const series = t * (0.254829592 + t * (-0.284496736 + t * (1.421413741 + t * (-1.453152027 + t * 1.061405429))));
    const tail = 0.5 * series * Math.exp(-z * z);
    return x < 0 ? tail : 1 - tail;
  }

  function kernel(weights) {
    const inner = given.inner.map((row) => dot(row, weights));
    const square = dot(given.gram.map((row) => dot(row, weights)), weights);
    const near = (e) => Math.exp(-Math.max(0, square + given.squares[e] - 2 * inner[e]) / (2 * given.reach ** 2));
    return {
      between: inner.map((one, e) => given.linear * one + (1 - given.linear) * near(e)),
      itself: given.linear * square + 1 - given.linear,
    };
  }

  // For each part of the answers, what each model's count in the mean, and the variance in units of the answers' own.
  function parts(weights) {
    const { between, itself } = kernel(weights);
    return given.shares.map((share, p) => {
      const rows = between.map((_, e) => precision.subarray((p * models + e) * models, (p * models + e + 1) * models));
      const solved = rows.map((row) => dot(between, row)), ones = rows.map((row) => row.reduce((a, b) => a + b, 0));
      const sure = ones.reduce((a, b) => a + b, 0) || 1, slack = 1 - solved.reduce((a, b) => a + b, 0);
      const counts = solved.map((one, e) => one + (slack / sure) * ones[e]);
      return { share, counts, variance: Math.max(0, itself - dot(between, solved) + slack ** 2 / sure) };
    });
  }

  // The probability that a question is answered rightly, or the score that its only answer is.
  function right(mean, first, count, chosen, deviation) {
    if (count === 1) return Math.min(1, Math.max(0, mean[first]));
    let sum = 0;
    for (let node = 0; node < given.nodes.length; node++) {
      let product = given.nodeShares[node];
      for (let c = 0; c < count; c++) {
        if (c !== chosen) product *= ndtr((mean[first + chosen] - mean[first + c]) / deviation + given.nodes[node]);
      }
      sum += product;
    }
    return sum;
  }

  function predict(weights) {
    const found = parts(weights), mean = new Float64Array(total), scores = given.unit.map(() => 0);
    for (let q = 0, first = 0; q < task.length; first += choices[q], q++) {
      const { counts, variance } = found[part[q]];
      for (let a = first; a < first + choices[q]; a++) {
        for (let e = 0; e < models; e++) mean[a] += counts[e] * answers[e * total + a];
      }
      const widen = choices[q] > 1 ? choices[q] / (choices[q] - 1) : 1;
      const deviation = Math.max(1e-9, Math.sqrt(variance * given.unit[task[q]] * widen));
      scores[task[q]] += weight[q] * right(mean, first, choices[q], gold[q], deviation);
    }
    const spread = Math.max(1e-12, found.reduce((sum, one) => sum + one.share * one.variance, 0));
    const unknown = Math.sqrt(spread + given.noise);
    return {
      scores: scores.map((one) => 100 * one),
      halves: given.errors.map((one) => one * unknown),
      average: 100 * dot(scores, given.average),
      half: given.error * unknown,
    };
  }

  function recipe(weights) {
    const used = weights.map((one, place) => [one, given.models[place]]).filter(([one]) => one !== 0);
    const entries = used.map(([one, model]) => `- model: ${model.source}\n  parameters:\n    weight: ${one}\n`);
    return `${used.map(([, model]) => model.made).join("")}models:\n${entries.join("")}${given.settings}`;
  }

  const weights = () => inputs.map((input) => Number(input.value));
  const words = (value, half) => `${value.toFixed(1)} ± ${half.toFixed(1)}`;
  const clipped = (value) => `${Math.min(100, Math.max(0, value))}%`;

  function show() {
    const chosen = weights(), found = predict(chosen);
    inputs.forEach((input, place) => { panel.querySelectorAll("output")[place].textContent = chosen[place].toFixed(2); });
    panel.querySelectorAll("tbody tr").forEach((row, place) => {
      const score = found.scores[place], half = found.halves[place];
      row.querySelector("td").textContent = words(score, half);
      row.querySelector(".fill").style.width = clipped(score);
      row.querySelector(".range").style.left = clipped(score - half);
      row.querySelector(".range").style.right = clipped(100 - score - half);
      row.querySelector(".mark").style.left = clipped(given.found[place]);
      row.querySelector(".dot").style.left = clipped(given.specialists[place]);
    });
    document.getElementById("what-if-average").textContent = words(found.average, found.half);
    document.getElementById("what-if-between").textContent =
      `predicted average; the winner has ${given.winner.toFixed(1)}`;
    document.getElementById("what-if-recipe").textContent = recipe(chosen);
    document.getElementById("what-if-copied").textContent = "";
  }

  async function copy() {
    const told = document.getElementById("what-if-copied"), text = recipe(weights());
    try {
      await navigator.clipboard.writeText(text);
      told.textContent = "copied";
    } catch {
      panel.querySelector("details").open = true;
      getSelection().selectAllChildren(document.getElementById("what-if-recipe"));
      told.textContent = "select and copy it below";
    }
  }

  const say = () => {
    const { average, half } = predict(weights());
    document.getElementById("what-if-spoken").textContent = `predicted average ${words(average, half)}`;
  };
  for (const input of inputs) {
    input.addEventListener("input", show);
    input.addEventListener("change", say);
  }
  document.getElementById("what-if-reset").addEventListener("click", () => {
    for (const input of inputs) input.value = input.defaultValue;
    show();
  });
  document.getElementById("what-if-copy").addEventListener("click", copy);
  show();
  return { predict, recipe };
})();
