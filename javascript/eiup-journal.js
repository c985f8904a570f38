// The journal's tab shows what has been made until one turns to it.
onUiTabChange(function() {
    if (get_uiCurrentTabContent()?.id === "tab_eiup_journal") gradioApp().querySelector("#eiup_journal_show").click();
});
