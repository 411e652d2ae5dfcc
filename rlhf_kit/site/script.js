// Light or dark as chosen, before anything is painted; a folded list of contents on a phone; copying code as it stands.
(function () {
  var root = document.documentElement, kept = null;
  try { kept = localStorage.getItem("theme"); } catch (e) { /* a browser that keeps nothing */ }
  if (kept === "dark" || kept === "light") root.dataset.theme = kept;
  document.addEventListener("DOMContentLoaded", function () {
    var menu = document.querySelector(".side details"), toggle = document.getElementById("theme");
    if (matchMedia("(max-width: 800px)").matches) menu.open = false;
    function dark() {
      return root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
    }
    function name() { toggle.textContent = dark() ? "light" : "dark"; }
    toggle.hidden = false;
    name();
    toggle.addEventListener("click", function () {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch (e) { /* for this page only */ }
      name();
    });
    document.querySelectorAll(".input_area").forEach(function (area) {
      var code = area.querySelector("pre"), button = document.createElement("button");
      button.className = "copy";
      button.textContent = "copy";
      button.addEventListener("click", function () {
        var text = code.textContent.replace(/\n$/, "");
        function done(word) { button.textContent = word; setTimeout(function () { button.textContent = "copy"; }, 1500); }
        function select() { getSelection().selectAllChildren(code); done("selected"); }
        if (navigator.clipboard) navigator.clipboard.writeText(text).then(function () { done("copied"); }, select);
        else select();
      });
      area.appendChild(button);
    });
  });
})();
