// Shows in the accordion's header how many concepts are being erased.
(function() {
    function countConcepts(text) {
        const entries = text.split("\n").flatMap(line => line.replace(/(?<!\\)#.*/, "").split(/(?<!\\),/));
        return new Set(entries.map(entry => entry.trim()).filter(entry => entry)).size;
    }

    function updateHeader(tab) {
        const label = gradioApp().querySelector(`#script_${tab}_eiup_enabled > .label-wrap > span:first-child`);
        const enabled = gradioApp().querySelector(`#script_${tab}_eiup_enabled-checkbox input`);
        const concepts = gradioApp().querySelector(`#script_${tab}_eiup_concepts textarea`);
        if (!label || !enabled || !concepts) return;
        const count = enabled.checked ? countConcepts(concepts.value) : 0;
        const text = count ? `EIUP: ${count} concept${count === 1 ? "" : "s"}` : "EIUP";
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
