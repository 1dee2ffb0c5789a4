// Tables sort by a column where its heading is pressed; without this script they stay as they are. Printing opens what is folded.
for (const table of document.querySelectorAll("table.sortable")) {
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent.trim();
      const known = (row) => value(row) !== "" && value(row) !== "–";
      const rows = [...table.tBodies[0].rows];
      const numbers = rows.filter(known).every((row) => !isNaN(value(row)));
      const turn = head.ariaSort === (numbers ? "descending" : "ascending") ? -1 : 1;
      const order = (numbers ? -1 : 1) * turn;
      rows.sort((a, b) => {
        if (known(a) !== known(b)) return known(a) ? -1 : 1;
        return order * (numbers ? value(a) - value(b) : value(a).localeCompare(value(b)));
      });
      for (const other of heads) other.removeAttribute("aria-sort");
      head.ariaSort = order < 0 ? "descending" : "ascending";
      table.tBodies[0].append(...rows);
    });
  });
}
addEventListener("beforeprint", () => document.querySelectorAll("details").forEach((one) => (one.open = true)));
