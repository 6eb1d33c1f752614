/* SPDX-License-Identifier: Apache-2.0 */
/* The little of libsentencepiece that we call, as C. No exception leaves this file. */
#include "text/sentencepiece_shim.h"

#include <cstdio>
#include <exception>
#include <memory>

#include <sentencepiece_processor.h>

struct t3v_spm {
    sentencepiece::SentencePieceProcessor processor;
};

t3v_spm *t3v_spm_open(const void *data, size_t n, char *err, size_t err_size)
{
    try {
        std::unique_ptr<t3v_spm> spm(new t3v_spm);
        const auto status = spm->processor.LoadFromSerializedProto({static_cast<const char *>(data), n});
        if (status.ok()) return spm.release();
        std::snprintf(err, err_size, "%s", status.ToString().c_str());
    } catch (const std::exception &e) {
        std::snprintf(err, err_size, "%s", e.what());
    }
    return nullptr;
}

void t3v_spm_close(t3v_spm *spm) { delete spm; }

int t3v_spm_encode(const t3v_spm *spm, const char *text, size_t n, int32_t *ids, size_t max, size_t *pieces,
                   size_t *cut, char *err, size_t err_size)
{
    try {
        const auto spt = spm->processor.EncodeAsImmutableProto({text, n});
        *pieces = spt.pieces_size();
        *cut = *pieces > max ? spt.pieces(static_cast<int>(max)).begin() : n;
        for (size_t i = 0; i < *pieces && i < max; i++)
            ids[i] = static_cast<int32_t>(spt.pieces(static_cast<int>(i)).id());
        return 0;
    } catch (const std::exception &e) {
        std::snprintf(err, err_size, "%s", e.what());
        return -1;
    }
}
