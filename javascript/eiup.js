// Shows in the accordion's header how many concepts and presets are being erased.
eiup.keepUpToDate(function(tab) {
    const label = eiup.find(tab, "enabled > .label-wrap > span:first-child");
    if (!label) return;
    const entries = eiup.activeEntries(tab);
    const concepts = entries.filter(entry => !entry.preset).length;
    const presets = entries.length - concepts;
    const parts = [];
    if (concepts === 1) parts.push(eiup.translate("1 concept"));
    if (concepts > 1) parts.push(eiup.translate("{count} concepts", {count: concepts}));
    if (presets === 1) parts.push(eiup.translate("1 preset"));
    if (presets > 1) parts.push(eiup.translate("{count} presets", {count: presets}));
    const text = ["EIUP", parts.join(", ")].filter(part => part).join(": ");
    // The host puts the checkbox into the label too: only the text node may change.
    const node = Array.from(label.childNodes).find(child => child.nodeType === Node.TEXT_NODE);
    if (node && node.data.trim() !== text) node.data = text;
});
