// What EIUP's scripts share: the syntax of concepts, the elements of a tab, and translation.
window.eiup = Object.assign(window.eiup || {}, (function() {
    // Whitespace and ends of lines as Python has them: both sides have to read the same concepts.
    const SPACES = /[\t-\r\x1c-\x20\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]+/g;
    const LINE_ENDS = /\r\n|[\n-\r\x1c-\x1e\x85\u2028\u2029]/;

    /** The text with single spaces, and none around it. */
    function squeeze(text) {
        return text.replace(SPACES, " ").replace(/^ | $/g, "");
    }

    /** The concepts of a text, `[{text, weight}]`, each once; what they are is defined by eiup/concepts.py. */
    function parseConcepts(text) {
        const concepts = new Map();
        for (const line of text.split(LINE_ENDS)) {
            for (const entry of line.replace(/(?<!\\)#.*/, "").split(/(?<!\\),/)) {
                const squeezed = squeeze(entry);
                const weighted = squeezed.match(/^(.*)(?<!\\):([^:()[\]]*)$/);
                const plain = squeeze((weighted ? weighted[1] : squeezed).replace(/\\([,:#])/g, "$1"));
                const weight = weighted ? Number(weighted[2]) : 1;
                if (plain && !concepts.has(plain)) concepts.set(plain, {text: plain, weight});
            }
        }
        return Array.from(concepts.values());
    }

    /** An element of EIUP's accordion in a tab. */
    function find(tab, selector) {
        return gradioApp().querySelector(`#script_${tab}_eiup_${selector}`);
    }

    /** The concepts that are erased in a tab: none while the accordion's box is not ticked. */
    function activeConcepts(tab) {
        const enabled = find(tab, "enabled-checkbox input");
        const concepts = find(tab, "concepts textarea");
        return enabled && enabled.checked && concepts ? parseConcepts(concepts.value) : [];
    }

    /** The webui's translation of a text, in which `{name}` stands for `values.name`. */
    function translate(text, values = {}) {
        const known = typeof getTranslation === "function" && window.localization && getTranslation(text);
        return (known || text).replace(/\{(\w+)\}/g, (_, name) => values[name]);
    }

    /** Call `update(tab)` for both tabs now, when something is typed or ticked, and when the page changes. */
    function keepUpToDate(update) {
        const updateAll = () => ["txt2img", "img2img"].forEach(tab => update(tab));
        onUiLoaded(function() {
            gradioApp().addEventListener("input", updateAll);
            updateAll();
        });
        onAfterUiUpdate(updateAll);
    }

    return {squeeze, parseConcepts, find, activeConcepts, translate, keepUpToDate};
})());
