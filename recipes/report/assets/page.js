"use strict";
(() => {
  const FIRST_CLIPS = 24;
  const page = document.documentElement;
  page.classList.add("js");
  const all = (selector) => [...document.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);

  // Videos play only while they are seen, so that a phone can show a hundred of them.
  let paused = matchMedia("(prefers-reduced-motion: reduce)").matches;
  const visible = new Set();
  const asBlob = (video) => {
    // Safari plays no data URI; a blob of the same bytes plays everywhere.
    const source = video.getAttribute("src");
    if (!source.startsWith("data:")) return;
    const bytes = Uint8Array.from(atob(source.slice(source.indexOf(",") + 1)), (c) => c.charCodeAt(0));
    video.src = URL.createObjectURL(new Blob([bytes], { type: "video/mp4" }));
  };
  const play = (video) => {
    asBlob(video);
    video.play().catch(() => { video.controls = true; });
  };
  const watcher = new IntersectionObserver((entries) => {
    for (const { target, isIntersecting } of entries) {
      if (isIntersecting) { visible.add(target); if (!paused) play(target); }
      else { visible.delete(target); target.pause(); }
    }
  }, { rootMargin: "120px" });
  for (const video of all(".clip video")) {
    watcher.observe(video);
    video.addEventListener("click", () => (video.paused ? play(video) : video.pause()));
  }
  const motion = one("#motion");
  const showMotion = () => { motion.textContent = paused ? "Play all" : "Pause all"; motion.setAttribute("aria-pressed", String(paused)); };
  if (motion) {
    showMotion();
    motion.addEventListener("click", () => {
      paused = !paused;
      for (const video of visible) { if (paused) video.pause(); else play(video); }
      showMotion();
    });
  }

  // Filters
  const filters = one("#filters");
  const more = one("#more");
  if (filters) {
    let showAll = false;
    const apply = () => {
      const task = filters.elements.task.value;
      const outcome = filters.elements.outcome.value;
      const matching = all(".clip").filter((clip) => {
        clip.hidden = true;
        return (!task || clip.dataset.task === task) && (!outcome || clip.dataset.outcome === outcome);
      });
      const shown = showAll ? matching : matching.slice(0, FIRST_CLIPS);
      for (const clip of shown) clip.hidden = false;
      one("#count").textContent = matching.length ? `showing ${shown.length} of ${matching.length}` : "no such episode";
      more.hidden = shown.length === matching.length;
      more.textContent = `Show all ${matching.length}`;
    };
    filters.addEventListener("change", () => { showAll = false; apply(); });
    filters.addEventListener("submit", (event) => event.preventDefault());
    more.addEventListener("click", () => { showAll = true; apply(); });
    filters.reset();
    apply();
  }

  // Commands
  for (const button of all(".copy")) {
    button.addEventListener("click", async () => {
      const code = button.parentElement.querySelector("code");
      try {
        await navigator.clipboard.writeText(code.textContent);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(code);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 1500);
    });
  }

  // The numbers
  const download = one("#download");
  download.hidden = false;
  download.addEventListener("click", () => {
    const link = document.createElement("a");
    link.href = URL.createObjectURL(new Blob([one("#report-json").textContent], { type: "application/json" }));
    link.download = "report.json";
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 10000);
  });
})();
