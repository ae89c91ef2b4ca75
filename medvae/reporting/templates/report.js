// The table of cases: sorted by a click on a column, found by name, and shown page by page.
(() => {
  const table = document.getElementById("table"), body = table.tBodies[0], rows = Array.from(body.rows);
  const find = document.getElementById("find"), size = document.getElementById("size");
  const back = document.getElementById("back"), on = document.getElementById("on"), where = document.getElementById("where");
  let order = rows.slice(), page = 0;

  function show() {
    const text = find.value.trim().toLowerCase();
    const chosen = order.filter((row) => row.cells[0].textContent.toLowerCase().includes(text));
    const each = Number(size.value) || Math.max(1, chosen.length), pages = Math.max(1, Math.ceil(chosen.length / each));
    page = Math.min(Math.max(page, 0), pages - 1);
    const visible = new Set(chosen.slice(page * each, (page + 1) * each));
    for (const row of rows) row.hidden = !visible.has(row);
    const first = chosen.length ? page * each + 1 : 0;
    where.textContent = first + "–" + (page * each + visible.size) + " of " + chosen.length;
    back.disabled = page === 0;
    on.disabled = page === pages - 1;
  }

  function sort(head, kind) {
    const index = head.cellIndex, before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : kind === "text";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const text = row.cells[index].dataset.value;
      return kind === "text" ? text : text === "" || text === "nan" ? NaN : Number(text);
    };
    order.sort((a, b) => {
      const x = value(a), y = value(b);
      if (kind === "text") return x.localeCompare(y, undefined, { numeric: true }) * (up ? 1 : -1);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // what has no number comes last, either way
      return (x - y) * (up ? 1 : -1);
    });
    body.append(...order);
    page = 0;
    show();
  }

  for (const button of table.tHead.querySelectorAll("button"))
    button.addEventListener("click", () => sort(button.closest("th"), button.dataset.kind));
  find.addEventListener("input", () => { page = 0; show(); });
  size.addEventListener("change", () => { page = 0; show(); });
  back.addEventListener("click", () => { page--; show(); });
  on.addEventListener("click", () => { page++; show(); });
  document.getElementById("controls").hidden = false;
  show();
})();
