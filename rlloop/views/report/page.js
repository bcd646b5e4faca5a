"use strict";
// One player at a time, and the blind test. Nothing here asks the network for anything.

document.addEventListener("play", (event) => {
  for (const other of document.querySelectorAll("audio")) if (other !== event.target) other.pause();
}, true);

// Paper has no folds: what is closed opens for the printer, and closes again.
(() => {
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = [...document.querySelectorAll("details:not([open])")];
    for (const fold of opened) fold.open = true;
  });
  addEventListener("afterprint", () => { for (const fold of opened) fold.open = false; });
})();

(() => {
  const block = document.getElementById("blind-data");
  if (!block) return;
  const { key, pairs } = JSON.parse(block.textContent);
  const at = (id) => document.getElementById(id);
  const form = at("blind-form"), status = at("blind-status"), result = at("blind-result"), listener = at("blind-listener");
  const plays = [...form.querySelectorAll(".play")], votes = [...form.querySelectorAll(".vote")];
  const before = restored();
  const winners = pairs.map((_, n) => before.winners?.[n] ?? null), times = pairs.map((_, n) => before.times?.[n] ?? null);
  // Once shown what was what, a listener is not blind any more: votes from then on are marked, also after a reload.
  const revealed = pairs.map((_, n) => before.revealed?.[n] ?? false);
  let isRevealed = before.isRevealed ?? false;
  let current = Math.max(0, winners.indexOf(null)), heard = new Set(), player = null;

  // The browser may forbid storage to a file; then the votes live as long as the page does.
  function restored() {
    try {
      const kept = JSON.parse(localStorage.getItem("rlloop-votes-" + key)) ?? {};
      return kept.number === pairs.length ? kept : {};
    } catch { return {}; }
  }
  function keep() {
    const kept = { number: pairs.length, winners, times, revealed, isRevealed };
    try { localStorage.setItem("rlloop-votes-" + key, JSON.stringify(kept)); } catch { /* see above */ }
  }

  function stop() {
    if (player) { player.pause(); player = null; }
    plays.forEach((button, side) => { button.textContent = "Play " + "AB"[side]; button.setAttribute("aria-pressed", "false"); });
  }

  function play(side) {
    const same = player && player.side === side;
    stop();
    if (same) return;
    for (const other of document.querySelectorAll("audio")) other.pause();
    player = new Audio(at(pairs[current].clips[side]).src);
    player.side = side;
    const own = player;
    player.addEventListener("ended", () => { if (player === own) stop(); });
    player.play().then(() => {
      if (player !== own) return;
      heard.add(side);
      plays[side].textContent = "Stop " + "AB"[side];
      plays[side].setAttribute("aria-pressed", "true");
      refresh();
    }, (error) => { stop(); if (error.name !== "AbortError") status.textContent = "This browser cannot play the clip: " + error.message; });
  }

  const canVote = () => heard.size === 2 || winners[current] !== null;

  function refresh() {
    for (const button of votes) {
      button.setAttribute("aria-disabled", String(!canVote()));
      button.setAttribute("aria-pressed", String(winners[current] === button.dataset.winner));
    }
    const done = winners.filter(Boolean).length;
    at("blind-count").textContent = `Pair ${current + 1} of ${pairs.length}, ${done} voted`;
    at("blind-save").textContent = done ? `Store ${done} ${done === 1 ? "vote" : "votes"}` : "Store votes";
    at("blind-save").setAttribute("aria-disabled", String(!done));
  }

  // The status is what a screen reader speaks; `said` goes before the pair.
  function go(to, said = "") {
    stop();
    result.replaceChildren();
    current = (to + pairs.length) % pairs.length;
    heard = new Set();
    at("blind-prompt").textContent = pairs[current].prompt;
    status.textContent = `${said}Pair ${current + 1}: ${pairs[current].prompt}`;
    refresh();
  }

  function vote(winner) {
    if (!canVote()) { status.textContent = "Play both first."; return; }
    winners[current] = winner;
    times[current] = new Date().toISOString();
    revealed[current] = isRevealed;
    result.replaceChildren();
    keep();
    const left = winners.indexOf(null);
    if (left < 0) { stop(); refresh(); status.textContent = "All pairs have a vote: store them."; at("blind-save").focus(); return; }
    const ahead = winners.indexOf(null, current + 1);
    go(ahead < 0 ? left : ahead, `Pair ${current + 1} is voted. `);
    plays[0].focus();
  }

  function save() {
    const rows = pairs.map((pair, n) => ({ winner: winners[n], ...pair.vote, place: n, listener: listener.value.trim(), voted_at: times[n], revealed: revealed[n] }));
    const voted = rows.filter((row) => row.winner);
    if (!voted.length) { status.textContent = "There is no vote to store yet."; return; }
    const text = voted.map((row) => JSON.stringify(row)).join("\n") + "\n";
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([text], { type: "application/x-ndjson" }));
    link.download = "votes.jsonl";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 60000);
    status.textContent = `Stored ${voted.length} votes as votes.jsonl among your downloads. Train on them: rlloop reward train votes.jsonl --out my_reward`;
  }

  // The two-sided sign test: ties left out, p of a split at least as uneven as this if both were equally good.
  function signTest(a, b) {
    const n = a + b, tail = Math.min(a, b);
    let term = Math.pow(0.5, n), sum = 0;
    for (let k = 0; k <= tail; k++) { sum += term; term *= (n - k) / (k + 1); }
    return Math.min(1, 2 * sum);
  }

  function reveal() {
    isRevealed = true;
    keep();
    const counts = new Map();
    winners.forEach((winner, n) => {
      const { system_a, system_b } = pairs[n].vote;
      const names = [system_a, system_b].sort(), name = names.join(" / ");
      if (!counts.has(name)) counts.set(name, { names, wins: [0, 0], ties: 0, open: 0, seen: 0 });
      const row = counts.get(name);
      if (!winner) row.open += 1;
      else if (revealed[n]) row.seen += 1;
      else if (winner === "tie") row.ties += 1;
      else row.wins[names.indexOf(winner === "model_a" ? system_a : system_b)] += 1;
    });
    const list = document.createElement("ul");
    for (const { names, wins, ties, open, seen } of counts.values()) {
      const p = wins[0] + wins[1] ? `, sign test p = ${signTest(...wins).toFixed(3)}` : "";
      const aside = seen ? `, not counted because voted after this was shown ${seen}` : "";
      const item = document.createElement("li");
      item.textContent = `${names[0]} preferred ${wins[0]} times, ${names[1]} ${wins[1]} times, no difference ${ties}, without a vote ${open}${aside}${p}`;
      list.append(item);
    }
    const own = pairs[current].vote, note = document.createElement("p");
    note.className = "note";
    note.textContent = `In this pair A is ${own.system_a} and B is ${own.system_b}. These are one listener's votes in this browser. Votes from now on are marked as not blind, and are not trained on.`;
    result.replaceChildren(list, note);
    result.focus();
  }

  plays.forEach((button, side) => button.addEventListener("click", () => play(side)));
  votes.forEach((button) => button.addEventListener("click", () => vote(button.dataset.winner)));
  at("blind-back").addEventListener("click", () => go(current - 1));
  at("blind-next").addEventListener("click", () => go(current + 1));
  at("blind-save").addEventListener("click", save);
  at("blind-reveal").addEventListener("click", reveal);
  document.addEventListener("play", (event) => { if (event.target.closest("main")) stop(); }, true);
  form.addEventListener("keydown", (event) => {
    if (event.target === listener || event.ctrlKey || event.metaKey || event.altKey) return;
    const action = { a: () => play(0), b: () => play(1), 1: () => vote("model_a"), 2: () => vote("model_b"), 0: () => vote("tie") }[event.key.toLowerCase()];
    if (action) { event.preventDefault(); action(); }
  });
  go(current);
  form.hidden = false;
})();
