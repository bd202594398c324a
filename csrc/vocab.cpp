#include "vocab.h"

#include "log_capture.h"

#include <exception>
#include <vector>

std::string vocab_fault(const llama_vocab * vocab) {
    const int32_t n = llama_vocab_n_tokens(vocab);
    if (n <= 0 || llama_vocab_type(vocab) == LLAMA_VOCAB_TYPE_NONE) {
        return "it has no vocabulary";
    }
    for (const auto special : { llama_vocab_bos, llama_vocab_eos, llama_vocab_eot, llama_vocab_sep, llama_vocab_nl, llama_vocab_pad,
                                llama_vocab_fim_pre, llama_vocab_fim_suf, llama_vocab_fim_mid, llama_vocab_fim_pad,
                                llama_vocab_fim_rep, llama_vocab_fim_sep }) {
        const llama_token token = special(vocab);
        if (token >= n) {
            return "special token " + std::to_string(token) + " is none of its " + std::to_string(n);
        }
    }
    // every byte that a text can have, alone and after others, is asked for: llama.cpp looks for the tokens of bytes when a text
    // needs them
    std::string text;
    for (int byte = 1; byte < 256; ++byte) {
        text += (char) byte;
        text += ' ';
    }
    log_capture capture; // an assertion is an exception meanwhile
    try {
        std::vector<llama_token> tokens(text.size() * 4 + 16);
        llama_tokenize(vocab, text.data(), (int32_t) text.size(), tokens.data(), (int32_t) tokens.size(), true, true);
        char piece[64];
        for (llama_token token : { 0, n / 2, n - 1 }) {
            llama_token_to_piece(vocab, token, piece, sizeof(piece), 0, true);
        }
    } catch (const std::exception & e) {
        return std::string("its vocabulary cannot tokenize every text: ") + e.what();
    }
    return "";
}
