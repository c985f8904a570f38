// What every script of the page can rely on: finding elements, and hearing of changes.

/** The root to look for elements in. */
function gradioApp() {
    const app = document.querySelector("gradio-app");
    if (!app) return document;
    const root = app.shadowRoot || app;
    if (!root.getElementById) root.getElementById = (id) => document.getElementById(id);
    return root;
}

/** The button of the tab that is shown. */
function get_uiCurrentTab() {
    return gradioApp().querySelector("#tabs > .tab-nav > button.selected");
}

/** The content of the tab that is shown. */
function get_uiCurrentTabContent() {
    return gradioApp().querySelector('#tabs > .tabitem[id^=tab_]:not([style*="display: none"])');
}

var opts = {};

const listeners = {loaded: [], update: [], afterUpdate: [], tabChange: [], optionsChanged: [], optionsAvailable: []};

/** Once, when the page is there. */
function onUiLoaded(callback) {
    listeners.loaded.push(callback);
}

/** At every change of the page, with the MutationRecords. */
function onUiUpdate(callback) {
    listeners.update.push(callback);
}

/** A moment after the page has stopped changing. */
function onAfterUiUpdate(callback) {
    listeners.afterUpdate.push(callback);
}

/** When another tab is shown. */
function onUiTabChange(callback) {
    listeners.tabChange.push(callback);
}

/** When settings have changed. */
function onOptionsChanged(callback) {
    listeners.optionsChanged.push(callback);
}

/** Once, when `opts` holds the settings; at once if it does already. */
function onOptionsAvailable(callback) {
    if (Object.keys(opts).length) callback();
    else listeners.optionsAvailable.push(callback);
}

function executeCallbacks(queue, argument) {
    for (const callback of queue) {
        try {
            callback(argument);
        } catch (error) {
            console.error("error running callback", callback, ":", error);
        }
    }
}

function readOptions() {
    const text = gradioApp().querySelector("#settings_json textarea")?.value;
    if (Object.keys(opts).length || !text) return;
    opts = JSON.parse(text);
    executeCallbacks(listeners.optionsAvailable);
    executeCallbacks(listeners.optionsChanged);
}

document.addEventListener("DOMContentLoaded", () => {
    const quietFor = 200;
    let loaded = false;
    let timer = null;
    let tab = null;
    new MutationObserver((records) => {
        if (!loaded && gradioApp().querySelector("#txt2img_prompt")) {
            loaded = true;
            executeCallbacks(listeners.loaded);
        }
        executeCallbacks(listeners.update, records);
        clearTimeout(timer);
        timer = setTimeout(() => {
            readOptions();
            executeCallbacks(listeners.afterUpdate);
        }, quietFor);
        const current = get_uiCurrentTab();
        if (current && current !== tab) {
            tab = current;
            executeCallbacks(listeners.tabChange);
        }
    }).observe(gradioApp(), {childList: true, subtree: true});
});

// Ctrl+Enter generates, Alt+Enter skips, Esc interrupts.
document.addEventListener("keydown", (event) => {
    const button = (name) => get_uiCurrentTabContent()?.querySelector(`button[id$=_${name}]`);
    let pressed = null;
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) pressed = button("generate");
    else if (event.key === "Enter" && event.altKey) pressed = button("skip");
    else if (event.key === "Escape" && button("interrupt")?.style.display === "block") pressed = button("interrupt");
    if (pressed) {
        pressed.click();
        event.preventDefault();
    }
});

/** Tell gradio that a script has changed an input's value. */
function updateInput(target) {
    target.dispatchEvent(new Event("input", {bubbles: true}));
}

function uiElementIsVisible(element) {
    return element === document || (getComputedStyle(element).display !== "none" && uiElementIsVisible(element.parentNode));
}

function set_theme(theme) {
    const url = new URL(window.location.href);
    if (url.searchParams.has("__theme")) return;
    url.searchParams.set("__theme", theme);
    window.location.replace(url);
}
