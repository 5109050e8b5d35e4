"""What pages say in words of their own: what was done, and what each kind of problem means."""

from __future__ import annotations

from patchbank.server.web.language import N_

# What a form has done: the page after it shows the text of `?done=KEY`.
DONE = {
    "saved": N_("Saved."),
    "uploaded": N_("The model file is here. Its version is a candidate: approve it before you deploy it."),
    "known": N_("This file is known already: here is its version."),
    "approved": N_("The version is approved. It can be deployed now."),
    "retired": N_("The version is retired: it cannot be deployed any more."),
    "deployed": N_("The version decides from the next part on."),
    "watches": N_("The version watches from the next part on. It decides nothing."),
    "dataset-added": N_("The dataset is made. Add images of good parts now."),
    "dataset-removed": N_("The dataset is removed."),
    "images-added": N_("The images are added."),
    "left-out": N_("The images are left out: they are not learned."),
    "learned-again": N_("The images are learned again."),
    "job-begun": N_("The job is in the queue."),
    "job-cancelled": N_("The job ends within seconds."),
    "watches-no-more": N_("No version watches there any more."),
    "password": N_("Your password is changed. All of your other sessions have ended."),
    "signed-out": N_("You are signed out."),
    "review": N_("Your review is saved."),
    "undone": N_("The last review is taken back."),
    "user-added": N_("The person is added."),
    "user-changed": N_("The person is changed. All of the person's sessions have ended."),
    "token-revoked": N_("The token is revoked. It is worth nothing from now on."),
    "stream-added": N_("The stream is added."),
    "backup-begun": N_("The backup is being made."),
    "backup-removed": N_("The backup is removed."),
    "paused": N_("The station is paused: no part is inspected."),
    "resumed": N_("The station inspects again."),
}
# The kinds of problems that people meet. The sentence of the service stands below, in English.
PROBLEMS = {
    "who": N_("Please sign in."),
    "unusable-model": N_("This file cannot be used as a model here."),
    "no-model": N_("Choose a model file."),
    "too-large": N_("That is too much at once."),
    "no-calibration": N_("The model has no threshold: it was fitted without calibration."),
    "model-file": N_("The version's model file cannot be used. Restore it from a backup."),
    "invalid-config": N_("One of the options is not possible."),
    "unusable-image": N_("One of the images cannot be used. None was added."),
    "folder": N_("This folder cannot be read."),
    "password": N_("Please give your password once more."),
    "not-allowed": N_("Your role does not allow this."),
    "no-administrator": N_("There is no administrator yet."),
    "wrong-password": N_("The name or the password is wrong."),
    "too-many-attempts": N_("Too many failed attempts. Please wait a minute."),
    "other-site": N_("This change was asked for by the page of another site, and was refused."),
    "no-origin": N_("The browser does not say where this change comes from, so it was refused."),
    "not-found": N_("There is nothing at this address."),
    "conflict": N_("This does not fit with what is there now."),
    "invalid-value": N_("One of the values is not possible."),
    "invalid-request": N_("Something is missing, or is not as expected."),
    "passwords-differ": N_("The two passwords are not the same."),
    "busy": N_("The service is busy. Please try again in a moment."),
    "disk-full": N_("The disk is full: nothing can be saved."),
    "database": N_("The database does not answer."),
    "no-image": N_("This inspection has no image."),
    "image-gone": N_("The image is gone: it was removed after the time that the settings say."),
}
OTHER = N_("This did not work.")
