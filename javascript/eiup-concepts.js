// What EIUP's scripts share: the syntax of concepts, the elements of a tab, and translation.
window.eiup = Object.assign(window.eiup || {}, (function() {
    // Whitespace and ends of lines as Python has them: both sides have to read the same concepts.
    const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
    const LINE_ENDS = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/;

    /** The text with single spaces, and none around it. */
    function squeeze(text) {
        return text.replace(SPACES, " ").replace(/^ | $/g, "");
    }

    /** What a text names, `[{text, weight, preset}]`, each once, as eiup/concepts.py defines it. */
    function parseEntries(text) {
        const entries = new Map();
        for (const line of text.split(LINE_ENDS)) {
            for (const entry of line.replace(/(?<!\\)#.*/, "").split(/(?<!\\),/)) {
                const squeezed = squeeze(entry);
                const weighted = squeezed.match(/^(.*)(?<!\\):([^:()[\]]*)$/);
                const written = weighted ? weighted[1] : squeezed;
                const preset = written.startsWith("@");
                const plain = preset ? `@${squeeze(written.slice(1))}` : squeeze(written.replace(/\\([,:#@])/g, "$1"));
                const weight = weighted ? Number(weighted[2]) : 1;
                const key = `${preset} ${plain}`;
                if (plain && !entries.has(key)) entries.set(key, {text: plain, weight, preset});
            }
        }
        return Array.from(entries.values());
    }

    /** An element of EIUP's accordion in a tab. */
    function find(tab, selector) {
        return gradioApp().querySelector(`#script_${tab}_eiup_${selector}`);
    }

    /** What is erased in a tab: nothing while the accordion's box is not ticked. */
    function activeEntries(tab) {
        const enabled = find(tab, "enabled-checkbox input");
        const concepts = find(tab, "concepts textarea");
        return enabled && enabled.checked && concepts ? parseEntries(concepts.value) : [];
    }

    /** The webui's translation of a text, in which `{name}` stands for `values.name`. */
    function translate(text, values = {}) {
        const known = typeof getTranslation === "function" && window.localization && getTranslation(text);
        return (known || text).replace(/\{(\w+)\}/g, (_, name) => values[name]);
    }

    const updates = [];

    /** Call `update(tab)` for both tabs now, when something is typed or ticked, and when the page changes. */
    function keepUpToDate(update) {
        updates.push(update);
    }

    function updateAll() {
        for (const update of updates) ["txt2img", "img2img"].forEach(tab => update(tab));
    }

    onUiLoaded(function() {
        gradioApp().addEventListener("input", updateAll);
        updateAll();
    });
    onAfterUiUpdate(updateAll);

    return {squeeze, parseEntries, find, activeEntries, translate, keepUpToDate, updateAll};
})());
