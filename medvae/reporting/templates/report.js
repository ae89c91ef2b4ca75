// The table of cases: sorted by a click on a column, found by name, and shown page by page.
(() => {
  const table = document.getElementById("table"), body = table.tBodies[0];
  const find = document.getElementById("find"), size = document.getElementById("size");
  const back = document.getElementById("back"), on = document.getElementById("on"), where = document.getElementById("where");
  const many = document.getElementById("many");
  const order = many ? told(JSON.parse(many.textContent)) : Array.from(body.rows, written);
  let page = 0;

  // A row that the page holds.
  function written(row) {
    return { text: row.cells[0].textContent.toLowerCase(), value: (index) => row.cells[index].dataset.value, element: () => row };
  }

  // Rows of very many cases, which become elements when they are shown.
  function told({ digits, rows }) {
    return rows.map(([id, page, kind, problem, pictured, ...numbers]) => ({
      text: (id + " " + kind + problem).toLowerCase(),
      value: (index) => index === 0 ? id : String(numbers[index - 2] ?? "nan"),
      element() {
        const row = document.createElement("tr"), address = "cases/" + page.split("/").map(encodeURIComponent).join("/");
        const name = row.insertCell(), picture = row.insertCell(), link = document.createElement("a");
        name.className = "name";
        name.dataset.value = link.textContent = id;
        link.href = address + ".html";
        name.append(link);
        if (kind) name.append(" ", labelled("span", "kind " + kind, kind));
        if (problem) name.append(labelled("div", "small bad", problem));
        if (pictured) {
          const image = new Image();
          image.alt = "Three planes of " + id;
          image.src = address + ".webp";
          picture.append(image);
        }
        numbers.forEach((number, index) => {
          const cell = row.insertCell();
          cell.dataset.value = number ?? "nan";
          cell.textContent = number === null ? "–" : number.toFixed(digits[index]);
        });
        return row;
      },
    }));
  }

  function labelled(kind, name, text) {
    const element = document.createElement(kind);
    element.className = name;
    element.textContent = text;
    return element;
  }

  function show() {
    const text = find.value.trim().toLowerCase();
    const chosen = order.filter((row) => row.text.includes(text));
    const each = Number(size.value) || Math.max(1, chosen.length), pages = Math.max(1, Math.ceil(chosen.length / each));
    page = Math.min(Math.max(page, 0), pages - 1);
    const visible = chosen.slice(page * each, (page + 1) * each);
    body.replaceChildren(...visible.map((row) => row.element()));
    const first = chosen.length ? page * each + 1 : 0;
    where.textContent = first + "–" + (page * each + visible.length) + " of " + chosen.length;
    back.disabled = page === 0;
    on.disabled = page === pages - 1;
  }

  function sort(head, kind) {
    const index = head.cellIndex, before = head.getAttribute("aria-sort");
    const up = before ? before === "descending" : kind === "text";
    for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
    head.setAttribute("aria-sort", up ? "ascending" : "descending");
    const value = (row) => {
      const text = row.value(index);
      return kind === "text" ? text : text === "" || text === "nan" ? NaN : Number(text);
    };
    const compare = new Intl.Collator(undefined, { numeric: true }).compare;
    order.sort((a, b) => {
      const x = value(a), y = value(b);
      if (kind === "text") return compare(x, y) * (up ? 1 : -1);
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y); // what has no number comes last, either way
      return (x - y) * (up ? 1 : -1);
    });
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
