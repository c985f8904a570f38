// Says which of the concepts that are erased the prompt names.
(function() {
    /** The text without networks and without the brackets and weights of emphasis. */
    function withoutEmphasis(text) {
        const plain = text.replace(/<\w+:[^<>]*>/g, " ").replace(/:\s*[+-]?[\d.]+\s*\)/g, ")");
        return eiup.squeeze(plain.replace(/\\?[()[\]]/g, " "));
    }

    /** Whether a prompt has a concept's text in it, as whole words. */
    function names(prompt, text) {
        const words = withoutEmphasis(text);
        if (!words) return false;
        const escaped = words.replace(/[.*+?^${}()|[\]\\/]/g, "\\$&");
        return new RegExp(`(?<![\\p{L}\\p{N}])${escaped}(?![\\p{L}\\p{N}])`, "iu").test(prompt);
    }

    eiup.keepUpToDate(function(tab) {
        const hint = eiup.find(tab, "named span");
        const box = gradioApp().querySelector(`#${tab}_prompt textarea`);
        if (!hint || !box) return;
        const prompt = withoutEmphasis(box.value);
        const erased = eiup.activeEntries(tab).filter(entry => !entry.preset && entry.weight !== 0);
        const named = erased.filter(concept => names(prompt, concept.text)).map(concept => concept.text);
        const text = named.length ? eiup.translate("The prompt names: {concepts}", {concepts: named.join(", ")}) : "";
        if (hint.textContent !== text) hint.textContent = text;
    });
})();
