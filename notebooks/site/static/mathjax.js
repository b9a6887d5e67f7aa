// On a narrow screen a numbered equation begins at the left edge instead of behind white space.
if (window.matchMedia("(max-width: 576px)").matches) window.MathJax.chtml.displayAlign = "left";
