-- Radiographs go to the node; what the node sent comes back to stay and is never routed again.
local RADIOGRAPHS = {
  ["1.2.840.10008.5.1.4.1.1.1"] = true,    -- Computed Radiography
  ["1.2.840.10008.5.1.4.1.1.1.1"] = true,  -- Digital X-Ray, for presentation
}

local function is_radiograph(tags)
  local class = string.gsub(tags["SOPClassUID"] or "", "[%z%s]+$", "")
  local modality = string.gsub(tags["Modality"] or "", "[%z%s]+$", "")
  -- Secondary Capture counts where it says that it is a radiograph (public data sets look like this).
  local captured = class == "1.2.840.10008.5.1.4.1.1.7" and (modality == "CR" or modality == "DX")
  return RADIOGRAPHS[class] or captured
end

function OnStoredInstance(id, tags, metadata, origin)
  local ours = origin["RequestOrigin"] == "DicomProtocol" and origin["RemoteAet"] == "CHEXFRACT"
  if not ours and is_radiograph(tags) then
    SendToModality(id, "chexfract")
  end
end
