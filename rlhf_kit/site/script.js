// Light or dark as chosen, before anything is painted; contents that fold on a phone and follow the reader on a desk;
// copying code as it stands; a field that finds rows in a long table.
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
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", name);
    toggle.hidden = false;
    name();
    toggle.addEventListener("click", function () {
      root.dataset.theme = dark() ? "light" : "dark";
      try { localStorage.setItem("theme", root.dataset.theme); } catch (e) { /* for this page only */ }
      name();
    });
    var links = {}, seen = null;
    document.querySelectorAll(".side ul ul a").forEach(function (link) { links[link.hash.slice(1)] = link; });
    function follow(link) {  // marks the section that is read, and keeps it in sight without moving the page
      if (seen) seen.classList.remove("here");
      if (seen = link) link.classList.add("here");
      var place = link || document.querySelector(".side a[aria-current]");
      if (place && menu.scrollHeight > menu.clientHeight) menu.scrollTop = place.offsetTop - menu.clientHeight / 2;
    }
    var heads = [].filter.call(document.querySelectorAll("main h2[id], main h3[id]"), function (head) { return links[head.id]; });
    function here() {
      var last = null;
      heads.forEach(function (head) { if (head.getBoundingClientRect().top < 120) last = head; });
      var link = last && links[last.id];
      if (link !== seen) follow(link);
    }
    follow(null);
    addEventListener("scroll", here, { passive: true });
    here();
    document.querySelectorAll(".find").forEach(function (box) {
      var field = document.createElement("input"), rows = box.querySelectorAll("tbody tr");
      var names = [].map.call(box.querySelectorAll("th"), function (head) { return head.textContent; });
      rows.forEach(function (row) {  // on a phone the cells stand below one another, each with the name of its column
        [].forEach.call(row.cells, function (cell, place) { cell.dataset.label = names[place]; });
      });
      field.className = "look";
      field.type = "search";
      field.placeholder = "find in " + rows.length + " entries";
      field.setAttribute("aria-label", field.placeholder);
      field.addEventListener("input", function () {
        var words = field.value.toLowerCase().split(/\s+/);
        rows.forEach(function (row) {
          var text = row.textContent.toLowerCase();
          row.hidden = !words.every(function (word) { return text.includes(word); });
        });
      });
      box.before(field);
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
