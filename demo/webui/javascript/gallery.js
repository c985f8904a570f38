// The gallery: which image is selected, and its infotext below.

function all_gallery_buttons() {
    const thumbnails = get_uiCurrentTabContent()?.querySelectorAll("div[id$=_gallery] .thumbnail-item.thumbnail-small");
    return Array.from(thumbnails || []).filter((thumbnail) => thumbnail.parentElement.offsetParent);
}

function selected_gallery_button() {
    return all_gallery_buttons().find((thumbnail) => thumbnail.classList.contains("selected")) ?? null;
}

function selected_gallery_index() {
    return all_gallery_buttons().findIndex((thumbnail) => thumbnail.classList.contains("selected"));
}

function extract_image_from_gallery(gallery) {
    const index = selected_gallery_index();
    return [gallery?.[index] ?? gallery?.[0] ?? null];
}

// Selecting another image changes attributes only, which onUiUpdate does not hear of.
const shownImage = {};

function showInfotextOfSelection(tab) {
    const selected = gradioApp().querySelector(`#${tab}_gallery .thumbnail-item.selected img`);
    if (!selected || shownImage[tab] === selected.src) return;
    shownImage[tab] = selected.src;
    gradioApp().getElementById(`${tab}_generation_info_button`)?.click();
}

onUiLoaded(() => {
    for (const tab of ["txt2img", "img2img"]) {
        const gallery = gradioApp().getElementById(`${tab}_gallery`);
        new MutationObserver(() => showInfotextOfSelection(tab)).observe(
            gallery, {attributes: true, attributeFilter: ["class"], childList: true, subtree: true}
        );
    }
});
