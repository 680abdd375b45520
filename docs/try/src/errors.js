// Errors that a user can put right. Their text is a sentence for the user.

export class InputError extends Error {}
