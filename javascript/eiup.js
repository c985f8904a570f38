// Shows in the accordion's header how many concepts and presets are being erased.
(function() {
    function countEntries(text) {
        const entries = text.split("\n").flatMap(line => line.replace(/(?<!\\)#.*/, "").split(/(?<!\\),/));
        const unique = [...new Set(entries.map(entry => entry.trim()).filter(entry => entry))];
        const presets = unique.filter(entry => entry.startsWith("@")).length;
        return [[unique.length - presets, "concept"], [presets, "preset"]]
            .filter(([count]) => count)
            .map(([count, word]) => `${count} ${word}${count === 1 ? "" : "s"}`)
            .join(", ");
    }

    function updateHeader(tab) {
        const label = gradioApp().querySelector(`#script_${tab}_eiup_enabled > .label-wrap > span:first-child`);
        const enabled = gradioApp().querySelector(`#script_${tab}_eiup_enabled-checkbox input`);
        const concepts = gradioApp().querySelector(`#script_${tab}_eiup_concepts textarea`);
        if (!label || !enabled || !concepts) return;
        const count = enabled.checked ? countEntries(concepts.value) : "";
        const text = count ? `EIUP: ${count}` : "EIUP";
        // The host puts the checkbox into the label too: only the text node may change.
        const node = Array.from(label.childNodes).find(child => child.nodeType === Node.TEXT_NODE);
        if (node && node.data.trim() !== text) node.data = text;
    }

    function updateHeaders() {
        updateHeader("txt2img");
        updateHeader("img2img");
    }

    onUiLoaded(function() {
        gradioApp().addEventListener("input", updateHeaders);
        updateHeaders();
    });
    onAfterUiUpdate(updateHeaders);
})();
