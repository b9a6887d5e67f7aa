// What a keyboard and a screen reader need beside what the theme gives them.
(function () {
  // Equations, tables and code that are wider than the page get a place in the order of focus.
  function mark() {
    const boxes =
      "div.math, span.math, .pst-scrollable-table-container, .cell_output pre, div.highlight pre";
    document.querySelectorAll(boxes).forEach(function (box) {
      const wide = box.scrollWidth > box.clientWidth + 1;
      if (wide) box.setAttribute("tabindex", "0");
      else if (box.getAttribute("tabindex") === "0") box.removeAttribute("tabindex");
    });
  }
  window.addEventListener("load", function () {
    const maths = window.MathJax && window.MathJax.startup && window.MathJax.startup.promise;
    (maths || Promise.resolve()).then(mark).then(() => document.fonts.ready).then(mark);
  });
  window.addEventListener("resize", mark);
  // The arrows that unfold a part of the list of pages have a picture and no name.
  document.querySelectorAll("summary:has(> .toctree-toggle)").forEach(function (arrow) {
    const link = arrow.parentElement.parentElement.querySelector("a");
    arrow.setAttribute("aria-label", "Pages below " + link.textContent.trim());
  });
})();
