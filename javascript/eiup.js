// Shows in the accordion's header how many concepts are being erased.
eiup.keepUpToDate(function(tab) {
    const label = eiup.find(tab, "enabled > .label-wrap > span:first-child");
    if (!label) return;
    const count = eiup.activeConcepts(tab).length;
    let text = "EIUP";
    if (count === 1) text = eiup.translate("EIUP: 1 concept");
    if (count > 1) text = eiup.translate("EIUP: {count} concepts", {count});
    // The host puts the checkbox into the label too: only the text node may change.
    const node = Array.from(label.childNodes).find(child => child.nodeType === Node.TEXT_NODE);
    if (node && node.data.trim() !== text) node.data = text;
});
