// The countdown, and three requests at once. Everything else works without this.
"use strict";

document.documentElement.classList.add("scripted");

let started = performance.now();

function countDown() {
  const line = document.querySelector("[data-left]");
  if (!line) return;
  const passed = (performance.now() - started) / 1000;
  const left = Math.max(0, Math.ceil(Number(line.dataset.left) - passed));
  line.querySelector("[data-seconds]").textContent = `${left} s`;
  document.querySelector("progress").value = left;
  // Announced by screen readers, so it changes only when there is something to say.
  const hint = document.querySelector("[data-hint]");
  const text = left === 0 ? "Expired: the next request refreshes it."
    : left <= Number(line.dataset.leeway) ? "About to expire: the next request refreshes it ahead of time."
    : "";
  if (hint.textContent !== text) hint.textContent = text;
}

async function showNews() {
  const answer = await fetch(location.href, { cache: "no-store" });
  const news = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const old of document.querySelectorAll("[data-live]")) {
    const replacement = news.querySelector(`[data-live="${old.dataset.live}"]`);
    if (!replacement) return location.reload();
    old.replaceWith(replacement);
  }
  started = performance.now();
  countDown();
}

async function threeAtOnce(button) {
  if (button.dataset.expire) {
    await fetch(button.dataset.expire, { method: "POST", redirect: "manual" });
  }
  const requests = [1, 2, 3].map(() => fetch(button.dataset.three, { cache: "no-store" }));
  const answers = await Promise.all(requests);
  const bodies = await Promise.all(answers.map((answer) => answer.json()));
  if (answers.every((answer) => answer.ok)) {
    const tokens = new Set(bodies.map((body) => body.accessToken));
    const refreshes = bodies.filter((body) => body.refreshed).length;
    const text = `3 answers, ${count(refreshes, "refresh", "es")}, `
      + `${count(tokens.size, "access token")}: ${[...tokens].join(", ")}`;
    return { text, good: true };
  }
  const refused = answers.filter((answer) => !answer.ok);
  const status = [...new Set(refused.map((answer) => answer.status))].join(", ");
  const advice = status === "503" ? "You stay signed in." : "Reload the page.";
  return { text: `${refused.length} of 3 requests refused for now (${status}). ${advice}`, good: false };
}

function count(number, noun, plural = "s") {
  return `${number} ${noun}${number === 1 ? "" : plural}`;
}

document.addEventListener("click", async (event) => {
  const button = event.target.closest("[data-three]");
  if (!button || button.getAttribute("aria-disabled") === "true") return;
  const result = document.querySelector("[data-result]");
  button.setAttribute("aria-disabled", "true");
  result.textContent = "Asking …";
  try {
    const { text, good } = await threeAtOnce(button);
    result.textContent = text;
    result.classList.toggle("bad", !good);
    await showNews();
  } catch {
    result.textContent = "The demo does not answer: is it still running?";
  } finally {
    button.removeAttribute("aria-disabled");
  }
});

// A page out of the back/forward cache may show somebody who has signed out since.
addEventListener("pageshow", (event) => {
  if (event.persisted) location.reload();
});

countDown();
setInterval(countDown, 1000);
