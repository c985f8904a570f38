// Puts translations in the place of texts, titles and placeholders that are keys of `localization`.

function hasLocalization() {
    return window.localization && Object.keys(window.localization).length > 0;
}

function getTranslation(text) {
    return text ? localization[text] : undefined;
}

function translateElement(element) {
    for (const name of ["title", "placeholder"]) {
        const translation = getTranslation(element[name]);
        if (translation !== undefined) element[name] = translation;
    }
}

function translateNode(node) {
    if (node.nodeType === Node.TEXT_NODE) {
        const inert = ["SCRIPT", "STYLE", "TEXTAREA"].includes(node.parentElement?.nodeName);
        const translation = inert ? undefined : getTranslation(node.textContent.trim());
        if (translation !== undefined) node.textContent = translation;
    } else if (node.nodeType === Node.ELEMENT_NODE) {
        translateElement(node);
        node.childNodes.forEach(translateNode);
    }
}

document.addEventListener("DOMContentLoaded", () => {
    if (!hasLocalization()) return;
    onUiUpdate((records) => records.forEach((record) => record.addedNodes.forEach(translateNode)));
    translateNode(document.body);
});
