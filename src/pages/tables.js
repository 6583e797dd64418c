// Tables sort by a click (or Enter) on a heading, and are saved as CSV. Without JavaScript they are as written.
const words = new Intl.Collator("en", { numeric: true });

// A cell's number: of "+1.20 ± 0.3", "70 %" and "1,000" the first; NaN of a text.
function amount(text) {
  return /^[-+−]?[\d.,]+(e[-+]?\d+)?(\s*(%|±.*|\(.*))?$/.test(text) ? parseFloat(text.replace("−", "-").replaceAll(",", "")) : NaN;
}

function compared(a, b) {
  const [first, second] = [amount(a), amount(b)];
  return Number.isNaN(first) || Number.isNaN(second) ? words.compare(a, b) : first - second;
}

function sort(table, heading) {
  const column = heading.cellIndex;
  const first = heading.classList.contains("words") ? "ascending" : "descending"; // of figures the largest first
  const other = first === "ascending" ? "descending" : "ascending";
  const direction = heading.getAttribute("aria-sort") === first ? other : first;
  for (const one of heading.parentElement.cells) one.removeAttribute("aria-sort");
  heading.setAttribute("aria-sort", direction);
  const sign = direction === "ascending" ? 1 : -1;
  const text = (row) => row.cells[column].textContent.trim();
  const rows = [...table.tBodies[0].rows].sort((a, b) => {
    const [mine, theirs] = [text(a), text(b)];
    return !mine || !theirs ? !mine - !theirs : sign * compared(mine, theirs); // what is not known comes last
  });
  table.tBodies[0].append(...rows);
}

// A cell that a spreadsheet would take for a formula stays a text.
function field(text) {
  const safe = /^[=+@\t-]/.test(text) && Number.isNaN(amount(text)) ? `'${text}` : text;
  return /[",\n\r]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}

function save(table, name) {
  const lines = [...table.rows].map((row) => [...row.cells].map((cell) => field(cell.textContent.trim())).join(","));
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([`${lines.join("\n")}\n`], { type: "text/csv" }));
  link.download = `${name}.csv`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

for (const table of document.querySelectorAll("table.sortable")) {
  const headings = [...table.tHead.rows[0].cells];
  if (table.tBodies[0].rows.length < 2 || headings.some((one) => !one.textContent.trim())) continue;
  for (const heading of headings) {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    button.addEventListener("click", () => sort(table, heading));
    heading.append(button);
    heading.scope = "col";
  }
  const button = document.createElement("button");
  button.type = "button";
  button.textContent = "save as CSV";
  button.className = "save";
  const section = table.closest("section");
  const name = [section.id.replace("about-", ""), [...section.querySelectorAll("table.sortable")].indexOf(table) + 1];
  button.addEventListener("click", () => save(table, name[1] > 1 ? name.join("-") : name[0]));
  table.parentElement.after(button);
}
