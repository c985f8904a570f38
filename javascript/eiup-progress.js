// Marks the webui's progress bar while it says what EIUP learns: style.css makes that text readable.
onUiUpdate(function() {
    for (const bar of gradioApp().querySelectorAll(".progressDiv")) {
        bar.classList.toggle("eiup-learns", bar.textContent.startsWith("EIUP learns "));
    }
});
