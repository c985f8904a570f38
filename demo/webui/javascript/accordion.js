// InputAccordion: a checkbox in the accordion's header stands for the hidden checkbox beside it.
// Opening ticks it and ticking opens it, until the checkbox itself is clicked: from then on it may differ.

function setupAccordion(accordion) {
    const header = accordion.querySelector(".label-wrap");
    const hidden = gradioApp().querySelector(`#${accordion.id}-checkbox input`);
    const extra = gradioApp().querySelector(`#${accordion.id}-extra`);
    if (!header || !hidden || accordion.visibleCheckbox) return;
    if (extra) header.insertBefore(extra, header.lastElementChild);

    const checkbox = document.createElement("input");
    checkbox.type = "checkbox";
    checkbox.id = `${accordion.id}-visible-checkbox`;
    checkbox.className = `${hidden.className} input-accordion-checkbox`;
    checkbox.checked = header.classList.contains("open");
    header.querySelector("span").prepend(checkbox);
    accordion.visibleCheckbox = checkbox;

    let linked = true;
    const isOpen = () => header.classList.contains("open");
    accordion.onVisibleCheckboxChange = () => {
        if (linked && isOpen() !== checkbox.checked) header.click();
        if (hidden.checked !== checkbox.checked) {
            hidden.checked = checkbox.checked;
            updateInput(hidden);
        }
    };
    accordion.onChecked = (checked) => {
        if (isOpen() !== checked) header.click();
    };
    new MutationObserver(() => {
        accordion.classList.toggle("input-accordion-open", isOpen());
        if (linked && checkbox.checked !== isOpen()) {
            checkbox.checked = isOpen();
            accordion.onVisibleCheckboxChange();
        }
    }).observe(header, {attributes: true, attributeFilter: ["class"]});
    checkbox.addEventListener("click", (event) => {
        linked = false;
        event.stopPropagation();
    });
    checkbox.addEventListener("input", accordion.onVisibleCheckboxChange);
}

/** The server has set an InputAccordion's value. */
function inputAccordionChecked(id, checked) {
    const accordion = gradioApp().getElementById(id);
    if (!accordion?.visibleCheckbox || accordion.visibleCheckbox.checked === checked) return;
    accordion.visibleCheckbox.checked = checked;
    accordion.onVisibleCheckboxChange();
}

onUiLoaded(() => gradioApp().querySelectorAll(".input-accordion").forEach(setupAccordion));
