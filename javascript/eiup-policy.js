// Under a policy, the accordion's box is ticked and locked: the server erases, whatever the page sends.
eiup.keepUpToDate(function(tab) {
    const box = eiup.find(tab, "policy") && eiup.find(tab, "enabled-visible-checkbox");
    if (!box) return;
    box.disabled = true;
    box.title = eiup.translate("This server's policy does not let erasing be switched off.");
    const hidden = eiup.find(tab, "enabled-checkbox input");
    if (box.checked && hidden.checked) return;
    box.checked = hidden.checked = true;
    updateInput(hidden);
});
